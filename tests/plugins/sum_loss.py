"""A loss that is a sum over rows: it changes with the division of a batch."""

from piflow_bench.api import Update
from tests.plugins._base import Base


class SumLoss(Base):
    def training_step(self, batch, context):
        yield Update("student", self.loss(batch, context) * len(batch))
