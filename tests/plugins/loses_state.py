"""Counts its steps where no checkpoint sees it."""

from piflow_bench.api import Update
from tests.plugins._base import Base


class LosesState(Base):
    seen = 0

    def training_step(self, batch, context):
        self.seen += 1
        yield Update(
            "student",
            self.loss(batch, context)
            + self.seen * sum(p.square().mean() for p in context.modules["student"].parameters()),
        )
