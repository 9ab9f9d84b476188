"""A projection that is drawn anew whenever it is loaded."""

import torch

from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class FreshWeights(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        generator = torch.Generator()
        generator.seed()
        weights = torch.randn(3, 5, generator=generator)

        def network(x):
            return {FEATURES: x.mean((1, 2)) @ weights}

        return self.loaded(name, place, lambda images: torch.from_numpy(images) / 255, network)
