"""Divides by the time, which is 0 at data."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class NotFinite(OfDigits, TeacherPlugin):
    """Divides by the time, which is 0 at data."""

    def ask(self, network, x, t, condition):
        return network(x, t, condition) / t[:, None, None, None]
