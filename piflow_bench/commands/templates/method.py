"""NAME: say here in one line what the method does, and where it is published.

Test it with `python -m piflow_bench check method NAME plugins=THIS_FILE`. As it stands it imitates
the teacher: at N evaluations the way from noise to data is cut into N segments, and the network
learns the mean velocity over a segment, which a few Euler steps of the teacher give.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from piflow_bench.api import (
    Batch,
    Built,
    Condition,
    Context,
    Facts,
    Method,
    Optimizer,
    SampleRandom,
    Spec,
    Student,
    Teacher,
    Update,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings, each with its type, default and bounds; they are set from the command line."""

    teacher_steps: int = setting(4, least=1)  # Euler steps of the teacher in a segment
    # `tune` looks for the best one in this range
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))


@dataclass
class CLASSStudent(Student):
    """The sampler. Every evaluation goes through self.network: the harness counts them there."""

    network: Any

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples x0 from noise (t = 1) in exactly `nfe` evaluations."""
        times = flow.time_grid(nfe)  # 1, ..., 0
        return flow.euler(lambda x, t: self.network(x, t, condition), noise, times)


class CLASSMethod(Method):
    """Say here in one line what the method does: `list` and `show` print it."""

    Config = Config
    # `check` compares these facts with what it observes.
    facts = Facts(family="trajectory imitation", needs_data=True)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Networks and optimizers. Train a copy: the teacher itself stays as it is."""
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        self.nfe = spec.train_nfe or 1
        return Built(
            student=CLASSStudent(network),
            modules={"student": network},  # further networks and buffers go here, by name
            optimizers={"student": Optimizer(("student",), self.config.lr)},
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Yield losses; the harness does the rest (backward, clipping, EMA, budget, logs)."""
        # Every draw has a name of its own, and depends on nothing but seed, step and row.
        segment = context.random.integers("segment", self.nfe)
        noise = context.random.normal("noise", batch.shape)
        end = segment.to(noise) / self.nfe
        start = end + 1 / self.nfe
        assert batch.x0 is not None  # as the facts ask
        state = flow.interpolate(batch.x0, noise, start)
        # The teacher is frozen and guided already, and its evaluations are booked.
        x, steps = state, self.config.teacher_steps
        for i in range(steps):
            t = start - i / (steps * self.nfe)
            x = x - context.teacher(x, t, batch.condition) / (steps * self.nfe)
        target = (state - x) * self.nfe
        prediction = context.networks["student"](state, start, batch.condition)
        loss = (prediction - target).square().mean()  # a mean over rows: batches can be divided
        yield Update("student", loss, scalars={"loss": loss.detach()})
