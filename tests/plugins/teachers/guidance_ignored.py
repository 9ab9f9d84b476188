"""A network that takes guidance and does not look at it."""

from piflow_bench.api import TeacherPlugin
from piflow_bench.networks.dit import DiT
from tests.plugins.teachers._base import OfPictures


class Network(DiT):
    def forward(self, x, t, condition, duration=None, guidance=None):
        return super().forward(x, t, condition, duration)


class GuidanceIgnored(OfPictures, TeacherPlugin):
    """A network that takes guidance and does not look at it."""

    network = Network
