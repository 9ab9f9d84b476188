"""Gives a sample the class of its place in the batch."""

import torch

from piflow_bench.api import Classes, DatasetPlugin
from tests.plugins.datasets._base import Base


class ConditionsByPlace(Base, DatasetPlugin):
    """Gives a sample the class of its place in the batch."""

    def conditions(self, seed, indices):
        return Classes(torch.arange(len(indices)) % self.classes, self.classes)
