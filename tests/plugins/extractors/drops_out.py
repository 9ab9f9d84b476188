"""Leaves its dropout on."""

import torch
from torch import nn

from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class DropsOut(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        dropout = nn.Dropout(0.5)

        def network(x):
            return {FEATURES: dropout(x.mean(1).mean(1))}

        return self.loaded(name, place, lambda images: torch.from_numpy(images) / 255, network)
