"""A network that says another width than it has."""

from piflow_bench.api import TeacherPlugin
from piflow_bench.networks.dit import DiT
from tests.plugins.teachers._base import OfPictures


class Network(DiT):
    embedding_dim = 24


class FalseWidth(OfPictures, TeacherPlugin):
    """A network that says another width than it has."""

    network = Network
