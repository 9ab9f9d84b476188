"""Mirrors its images at random, by draws of its own."""

from dataclasses import dataclass

import torch

from piflow_bench.api import DatasetPlugin
from tests.plugins.datasets._base import Base


class UnseededRows(Base, DatasetPlugin):
    """Mirrors its images at random, by draws of its own."""

    def rows(self, x):
        return Rows(x)


@dataclass(frozen=True)
class Rows:
    x: torch.Tensor

    def __len__(self):
        return len(self.x)

    def take(self, rows, random):
        mirrored = torch.rand(len(rows), 1, 1, 1) < 0.5
        return torch.where(mirrored, self.x[rows].flip(3), self.x[rows])
