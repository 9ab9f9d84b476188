"""Looks at pictures through a batch norm that is left in training mode."""

import torch
from torch import nn

from piflow_bench.api import FEATURES, ExtractorPlugin, NoSettings


class BatchNormed(ExtractorPlugin):
    Config = NoSettings
    rule = "0 to 1"

    def load(self, name, place):
        norm = nn.BatchNorm1d(6, affine=False)

        def network(x):
            return {FEATURES: norm(torch.cat([x.mean((2, 3)), x.std((2, 3))], 1))}

        def prepare(images):
            return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

        return self.loaded(name, place, prepare, network)
