"""Scales a picture by the brightest of its batch."""

from piflow_bench.api import SpacePlugin
from tests.plugins.spaces._base import Base


class PicturesByBatch(Base, SpacePlugin):
    """Scales a picture by the brightest of its batch."""

    def look(self, x):
        return super().look(x / x.abs().max())
