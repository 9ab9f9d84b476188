"""Its labels begin at another number."""

from piflow_bench.api import Classes, TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class LabelsBeside(OfDigits, TeacherPlugin):
    """Its labels begin at another number."""

    def ask(self, network, x, t, condition):
        return network(x, t, Classes((condition.labels + 1) % 10, 10))
