"""A network that a second time input changes."""

from piflow_bench.api import TeacherPlugin
from piflow_bench.networks.dit import DiT
from tests.plugins.teachers._base import OfPictures


class Network(DiT):
    def add_duration(self):
        super().add_duration()
        self.emb.duration_embedder.linear_2.bias.data += 1


class DurationChanges(OfPictures, TeacherPlugin):
    """A network that a second time input changes."""

    network = Network
