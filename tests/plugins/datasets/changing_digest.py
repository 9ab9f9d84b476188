"""Has another digest whenever it is loaded."""

import uuid

from piflow_bench.api import DatasetPlugin
from tests.plugins.datasets._base import Base


class ChangingDigest(Base, DatasetPlugin):
    """Has another digest whenever it is loaded."""

    def digest(self, x):
        return uuid.uuid4().hex
