"""A network whose `project` gives one output, however many are asked for."""

from piflow_bench.api import TeacherPlugin
from piflow_bench.networks.dit import DiT
from tests.plugins.teachers._base import OfPictures


class Network(DiT):
    def project(self, layer, hidden, n):
        return super().project(layer, hidden, n)[:, :1]


class ProjectOne(OfPictures, TeacherPlugin):
    """A network whose `project` gives one output, however many are asked for."""

    network = Network
