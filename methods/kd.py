"""Endpoint regression on pairs (noise, converged teacher sample): shows whether a task is too easy.

At N evaluations the teacher's path is cut into N segments and each segment's end is regressed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from piflow_methods.parts.pairs import PairBuffer, buffer_for
from piflow_methods.parts.stepping import EulerStudent

from piflow_bench.api import (
    SCHEDULES,
    Batch,
    Built,
    Context,
    Facts,
    Method,
    Optimizer,
    Spec,
    Teacher,
    Update,
    between,
    cite,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of endpoint regression."""

    pairs: int = setting(4096, least=1)  # teacher trajectories held at once; the oldest go
    # of the compute, for making them
    pair_share: float = setting(0.25, above=0, below=1, search=between(0.1, 0.5))
    pair_steps: int = setting(16, least=1)  # Heun steps of a whole trajectory
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.99, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


class KD(Method):
    """Endpoint regression on the teacher's trajectories (Luhman & Luhman, arXiv 2101.02388).

    The teacher's paths are solved once, kept in a buffer and regressed, a segment for each
    step.
    """

    Config = Config
    facts = Facts(
        family="regression",
        paper="arXiv:2101.02388",
        citation=cite(
            "luhman2021kd",
            "Luhman, Eric and Luhman, Troy",
            "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed",
            "2101.02388",
        ),
        fidelity="after the paper, with segments of the path where it has one step, and a buffer "
        "that is refilled in place of a fixed set",
        version=3,
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone and an empty buffer of pairs."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        return Built(
            student=EulerStudent(network),
            modules={"student": network, "pairs": buffer_for(c.pairs, c.pair_share, spec)},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Regress the mean velocity over a random segment of stored trajectories."""
        buffer = context.modules["pairs"]
        assert isinstance(buffer, PairBuffer)
        states, condition = buffer.draw(batch, context, self.config.pair_steps)
        segment = context.random.integers("segment", buffer.nfe)
        rows = torch.arange(len(states), device=states.device)
        start, end = states[rows, segment], states[rows, segment + 1]
        t = 1 - segment.to(start) / buffer.nfe
        target = (start - end) * buffer.nfe
        prediction = context.networks["student"](start, t, condition)
        loss = (prediction - target).square().mean()
        yield Update("student", loss, scalars={"loss": loss.detach()})
