"""Flow matching: how a teacher is trained here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from piflow_bench import flow
from piflow_bench.contracts.method import (
    Batch,
    Built,
    Context,
    Facts,
    Method,
    Optimizer,
    Spec,
    Update,
)
from piflow_bench.contracts.student import Student
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.settings import setting


@dataclass(frozen=True)
class FlowMatchingConfig:
    """Settings of the teacher's own training."""

    lr: float = setting(2e-3, least=0)
    class_dropout: float = setting(0.1, least=0, most=1)


class FlowMatching(Method):
    """Flow matching (arXiv 2210.02747) with class dropout, for classifier-free guidance."""

    Config = FlowMatchingConfig
    facts = Facts("flow matching", track="from scratch", needs_data=True, needs_teacher=False)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """A fresh backbone."""
        return Built(
            Student(),
            {"student": spec.fresh_network().train()},
            {"student": Optimizer(("student",), self.config.lr, schedule="cosine")},
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Regress noise - x0 at uniform times."""
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        t = context.random.uniform("t")
        keep = context.random.uniform("class dropout") >= self.config.class_dropout
        condition = batch.condition.where(keep, batch.condition.null())
        u = context.networks["student"](flow.interpolate(batch.x0, noise, t), t, condition)
        loss = (u - (noise - batch.x0)).square().mean()
        yield Update("student", loss, scalars={"loss": loss.detach()})
