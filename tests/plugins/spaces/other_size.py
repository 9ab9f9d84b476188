"""Gives pictures of half the size."""

from piflow_bench.api import SpacePlugin
from tests.plugins.spaces._base import Base


class OtherSize(Base, SpacePlugin):
    """Gives pictures of half the size."""

    def look(self, x):
        return super().look(x)[:, ::2, ::2]
