"""Its time runs over 0..1000."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class WrongUnits(OfDigits, TeacherPlugin):
    """Its time runs over 0..1000."""

    def ask(self, network, x, t, condition):
        return network(x, t / 1000, condition)
