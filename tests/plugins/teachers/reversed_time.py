"""Its time runs from noise to data."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class ReversedTime(OfDigits, TeacherPlugin):
    """Its time runs from noise to data."""

    def ask(self, network, x, t, condition):
        return network(x, 1 - t, condition)
