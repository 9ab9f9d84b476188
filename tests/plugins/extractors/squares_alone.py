"""Takes pictures of 32 pixels a side, and says so of no other."""

import torch

from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class SquaresAlone(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        def prepare(images):
            return torch.from_numpy(images).reshape(len(images), 32, 32, 3) / 255

        return self.loaded(name, place, prepare, lambda x: {FEATURES: x.mean(1).flatten(1)})
