"""Gives its images as integers have them, from 0 to 255."""

from piflow_bench.api import DatasetPlugin
from tests.plugins.datasets._base import Base


class PixelsTo255(Base, DatasetPlugin):
    """Gives its images as integers have them, from 0 to 255."""

    def samples(self):
        return ((super().samples() + 1) * 127.5).round()
