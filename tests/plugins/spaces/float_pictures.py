"""Gives pictures from 0 to 1."""

from piflow_bench.api import SpacePlugin
from tests.plugins.spaces._base import Base


class FloatPictures(Base, SpacePlugin):
    """Gives pictures from 0 to 1."""

    def look(self, x):
        return super().look(x) / 255
