"""Has samples of half the size of their pictures and does not say so."""

from piflow_bench.api import Space, SpacePlugin
from tests.plugins.spaces._base import Base


class HalfAsLarge(Base, SpacePlugin):
    """Has samples of half the size of their pictures and does not say so."""

    def look(self, x):
        return super().look(x.repeat_interleave(2, 2).repeat_interleave(2, 3))

    def load(self, pictures, place):
        height, width, channels = pictures
        return Space((channels, height // 2, width // 2), self.look)
