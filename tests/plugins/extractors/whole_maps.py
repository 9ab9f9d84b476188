"""Gives a map of features, not a row."""

import torch

from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class WholeMaps(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        def network(x):
            return {FEATURES: x}

        return self.loaded(name, place, lambda images: torch.from_numpy(images) / 255, network)
