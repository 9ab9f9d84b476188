"""Lets what is brighter than white be dark."""

from piflow_bench.api import SpacePlugin
from tests.plugins.spaces._base import Base


class WrapsAround(Base, SpacePlugin):
    """Lets what is brighter than white be dark."""

    def look(self, x):
        pixels = ((x + 1) * 127.5).round() % 256
        return pixels.byte().permute(0, 2, 3, 1).numpy()
