"""A correct, small dataset; the bad plugins beside it break one rule each."""

import hashlib

import torch

from piflow_bench.api import Classes, Dataset, DatasetPlugin, NoSettings


class Base(DatasetPlugin):
    """Noise of three classes."""

    Config = NoSettings
    classes = 3
    law = "balanced"

    def samples(self):
        generator = torch.Generator().manual_seed(0)
        return 2 * torch.rand(96, 1, 8, 8, generator=generator) - 1

    def labels(self):
        return torch.arange(96) % self.classes

    def conditions(self, seed, indices):
        return Classes(torch.tensor([i % self.classes for i in indices]), self.classes)

    def digest(self, x):
        return hashlib.sha256(x.numpy().tobytes()).hexdigest()

    def rows(self, x):
        return None

    def load(self, space, place):
        x, y = self.samples(), Classes(self.labels(), self.classes)
        return Dataset(
            name="base",
            space=space.load((8, 8, 1), place),
            train=x[:64],
            train_condition=y[:64],
            test=x[64:],
            test_condition=y[64:],
            conditions=self.conditions,
            digest=self.digest(x),
            rows=self.rows(x[:64]),
            label_law=self.law,
        )
