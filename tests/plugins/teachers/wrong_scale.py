"""Its data are twice these."""

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfDigits


class WrongScale(OfDigits, TeacherPlugin):
    """Its data are twice these."""

    def ask(self, network, x, t, condition):
        # Of 2 x0: with x = c ((1 - s) x0 + s eps), c = 2 - t, it is eps - 2 x0.
        c = 2 - t
        s = t / c
        state = x / c[:, None, None, None]
        u = network(state, s, condition)
        eps, x0 = (state + (r)[:, None, None, None] * u for r in (1 - s, -s))
        return eps - 2 * x0
