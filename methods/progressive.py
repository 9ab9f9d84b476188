"""Progressive distillation (arXiv 2202.00512): a step for two, round by round.

In the first round the teacher is the experiment's, with its guidance; then the student of the round
before. Each round halves the steps, and the last has those that samples will take.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from piflow_methods.parts.stepping import EulerStudent
from torch import Tensor, nn

from piflow_bench.api import (
    SCHEDULES,
    Batch,
    Built,
    Condition,
    Context,
    Facts,
    Method,
    Optimizer,
    Spec,
    Teacher,
    Update,
    among,
    cite,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of progressive distillation."""

    rounds: int = setting(3, least=1, search=among(2, 3, 4))  # of equal parts of the budget
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


class Previous(nn.Module):
    """The student as it ended the round before; a module, so that checkpoints hold it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("round", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Its velocity."""
        return self.network(x, t, condition)

    @torch.no_grad()
    def begin(self, number: int, network: nn.Module) -> None:
        """Take the student's weights, where a round begins."""
        if int(self.round) == number:
            return
        for mine, its in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.copy_(its)
        self.round.fill_(number)


class Progressive(Method):
    """Progressive distillation (arXiv 2202.00512): two of the teacher's steps become one.

    A student learns to go in one step where its teacher goes in two, and is the next round's
    teacher.
    """

    Config = Config
    facts = Facts(
        family="regression",
        needs_data=True,
        auxiliary=("previous",),
        paper="arXiv:2202.00512",
        citation=cite(
            "salimans2022progressive",
            "Salimans, Tim and Ho, Jonathan",
            "Progressive Distillation for Fast Sampling of Diffusion Models",
            "2202.00512",
        ),
        fidelity="the paper's rounds, in the flow's times and velocities, all errors of one "
        "weight; equal parts of one budget, and no new optimizer in a round",
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone, and room for the student of the round before."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        self.nfe = spec.train_nfe or 1
        return Built(
            student=EulerStudent(network),
            modules={"student": network, "previous": Previous(network)},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Regress the mean velocity of two steps of the round's teacher."""
        c, condition = self.config, batch.condition
        assert batch.x0 is not None
        number = min(int(context.progress * c.rounds), c.rounds - 1)
        previous = context.modules["previous"]
        assert isinstance(previous, Previous)
        previous.begin(number, context.modules["student"])
        teacher: Any = context.networks["previous"] if number else context.teacher
        steps = self.nfe * 2 ** (c.rounds - 1 - number)
        t = 1 - context.random.integers("step", steps).to(batch.x0) / steps
        x = flow.interpolate(batch.x0, context.random.normal("noise", batch.shape), t)
        with torch.no_grad():
            first = teacher(x, t, condition)
            middle = x - first / (2 * steps)
            target = (first + teacher(middle, t - 1 / (2 * steps), condition)) / 2
        loss = (context.networks["student"](x, t, condition) - target).square().mean()
        yield Update("student", loss, scalars={"loss": loss.detach()})
