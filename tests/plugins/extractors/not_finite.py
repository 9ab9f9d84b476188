"""Divides by the deviation of a picture, which one of a single colour has not."""

import torch

from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class NotFinite(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        def network(x):
            return {FEATURES: x.mean((1, 2)) / (x - x[:, :1, :1]).abs().mean((1, 2))}

        return self.loaded(name, place, lambda images: torch.from_numpy(images) / 255, network)
