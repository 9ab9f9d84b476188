"""Gives half of the rows of a picture."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class HalfASample(OfDigits, TeacherPlugin):
    """Gives half of the rows of a picture."""

    def ask(self, network, x, t, condition):
        return network(x, t, condition)[:, :, :4]
