"""Scales all of a batch by what is drawn for all of its rows."""

from dataclasses import dataclass

import torch

from piflow_bench.api import DatasetPlugin
from tests.plugins.datasets._base import Base


class RowsByBatch(Base, DatasetPlugin):
    """Scales all of a batch by what is drawn for all of its rows."""

    def rows(self, x):
        return Rows(x)


@dataclass(frozen=True)
class Rows:
    x: torch.Tensor

    def __len__(self):
        return len(self.x)

    def take(self, rows, random):
        noise = 0 if random is None else random.uniform("noise").mean()
        return self.x[rows] * (1 - 0.1 * noise)
