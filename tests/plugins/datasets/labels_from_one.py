"""Counts its classes from 1."""

from piflow_bench.api import DatasetPlugin
from tests.plugins.datasets._base import Base


class LabelsFromOne(Base, DatasetPlugin):
    """Counts its classes from 1."""

    def labels(self):
        return super().labels() + 1
