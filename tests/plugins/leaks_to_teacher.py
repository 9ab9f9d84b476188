"""Lets its loss flow into the teacher's own parameters."""

from piflow_bench.api import Update
from tests.plugins._base import Base


class LeaksToTeacher(Base):
    def build(self, teacher, spec):
        self.network = teacher.network
        return super().build(teacher, spec)

    def training_step(self, batch, context):
        self.network.requires_grad_(True)
        t = context.random.uniform("leak")
        leak = self.network(batch.x0, t, batch.condition).square().mean()
        yield Update("student", self.loss(batch, context) + leak)
