"""The digits' teacher in a wrapper, and a small one of any pictures; both correct.

The bad plugins beside it break one rule each.
"""

import torch
from torch import nn

from piflow_bench.api import Classes, Teacher, TeacherPlugin, UserError
from piflow_bench.data.digits import teacher_network
from piflow_bench.files.weights import read_weights
from piflow_bench.networks.dit import DiT
from piflow_bench.teachers.digits import FILE


class Wrapped(nn.Module):
    """A network that is called through ``ask``."""

    def __init__(self, network, ask):
        super().__init__()
        self.network, self.ask = network, ask

    def forward(self, x, t, condition):
        return self.ask(self.network, x, t, condition)


class OfDigits(TeacherPlugin):
    """The digits' teacher without its guidance."""

    def ask(self, network, x, t, condition):
        return network(x, t, condition)

    def fresh_network(self, dataset):
        return Wrapped(teacher_network(), self.ask)

    def load(self, dataset, made=None):
        network = self.fresh_network(dataset)
        network.network.load_state_dict(read_weights(FILE).state)
        return Teacher(network, network)


class OfPictures(TeacherPlugin):
    """A small network of random weights."""

    network = DiT
    seed = 0

    def look(self, dataset):
        if len(dataset.shape) != 3:
            raise UserError("a teacher of pictures")
        return ""

    def fresh_network(self, dataset):
        condition = dataset.train_condition
        classes = condition.count if isinstance(condition, Classes) else 0
        channels, height, width = dataset.shape
        return self.network(channels, height, width, 16, 2, 2, patch=2, classes=classes)

    def load(self, dataset, made=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self.fresh_network(dataset)
        return Teacher(network, network)
