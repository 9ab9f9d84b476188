"""Says that its labels are drawn, and gives them in turn."""

from piflow_bench.api import DatasetPlugin
from tests.plugins.datasets._base import Base


class NotItsLaw(Base, DatasetPlugin):
    """Says that its labels are drawn, and gives them in turn."""

    law = "uniform"
