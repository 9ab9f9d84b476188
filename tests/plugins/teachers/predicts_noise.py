"""Gives noise for a velocity."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class PredictsNoise(OfDigits, TeacherPlugin):
    """Gives noise for a velocity."""

    def ask(self, network, x, t, condition):
        return x + (1 - t)[:, None, None, None] * network(x, t, condition)
