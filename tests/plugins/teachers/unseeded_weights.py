"""Draws its weights anew whenever it is loaded."""

import random

from piflow_bench.api import TeacherPlugin
from tests.plugins.teachers._base import OfPictures


class UnseededWeights(OfPictures, TeacherPlugin):
    """Draws its weights anew whenever it is loaded."""

    @property
    def seed(self):
        return random.randrange(10**6)
