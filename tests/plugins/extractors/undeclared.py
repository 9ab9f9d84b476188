"""Gives logits that it does not declare, and no features."""

import torch

from piflow_bench.api import LOGITS, ExtractorPlugin, NoSettings


class Undeclared(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        def network(x):
            return {LOGITS: x.mean((1, 2))}

        return self.loaded(name, place, lambda images: torch.from_numpy(images) / 255, network)
