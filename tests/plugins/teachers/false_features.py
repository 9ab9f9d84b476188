"""A network that states other shapes of its features."""

from piflow_bench.api import TeacherPlugin
from piflow_bench.networks.dit import DiT
from tests.plugins.teachers._base import OfPictures


class Network(DiT):
    def feature_shape(self, depth):
        return self.grid[0], self.grid[1], self.dim


class FalseFeatures(OfPictures, TeacherPlugin):
    """A network that states other shapes of its features."""

    network = Network
