"""Takes the mean of its batch away."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class OtherRows(OfDigits, TeacherPlugin):
    """Takes the mean of its batch away."""

    def ask(self, network, x, t, condition):
        return network(x - x.mean(0), t, condition)
