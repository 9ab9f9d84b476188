"""Shortcut models (arXiv 2410.12557): two steps of half a length are one of the whole.

U(x, t, d) is the average velocity over a step of length d, for lengths 1, 1/2, ..., 1/steps. The
shortest steps are regressed on velocities, and every other on two of its halves:

    U(x, t, d) = [U(x, t, d/2) + U(x - d/2 U(x, t, d/2), t - d/2, d/2)] / 2.

The map that satisfies this is Euler's method in ``steps`` steps, whose gap to the exact one is of
order 1 / steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch
from piflow_methods.parts.consistency import Average
from piflow_methods.parts.stepping import FlowMapStudent, average_velocity
from torch import Tensor

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
    between,
    cite,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of shortcut models; defaults are the paper's for ImageNet."""

    distill: bool = True  # the teacher's guided velocity replaces the data velocity
    steps: int = setting(128, least=2, search=among(16, 32, 128))  # of the shortest; a power of 2
    # share of rows that learn a step from its halves
    halves_share: float = setting(0.125, above=0, below=1, search=between(0.1, 0.5))
    # of the running average that gives halves; 0: the student itself
    decay: float = setting(0.999, least=0, below=1, search=among(0.0, 0.99, 0.999))
    clip: float | None = setting(4.0, above=0)  # of states and targets of halves
    # from scratch: of the shortest halves; None takes the teacher's
    guidance: float | None = setting(None)
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    weight_decay: float = setting(0.1, least=0)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.steps & (self.steps - 1):
            raise ValueError(f"steps={self.steps}: must be a power of 2")


def halves(
    network: Any, x: Tensor, t: Tensor, span: Tensor, condition: Condition, clip: float | None
) -> Tensor:
    """Mean velocity of two steps of half a length ``span`` ``(B,)`` from times t; no gradient."""
    half = span / 2
    with torch.no_grad():
        first = average_velocity(network, x, t, t - half, condition)
        middle = _clipped(x - flow.expand(half, x) * first, clip)
        second = average_velocity(network, middle, t - half, t - span, condition)
        return _clipped((first + second) / 2, clip)


def _clipped(value: Tensor, clip: float | None) -> Tensor:
    return value if clip is None else value.clamp(-clip, clip)


class Shortcut(Method):
    """Shortcut models (arXiv 2410.12557): long steps learn from two of half their length.

    The shortest steps learn velocities, and each longer one what two of its halves do, by an
    average of the student's own weights; no derivative is taken.
    """

    Config = Config
    facts = Facts(
        family="flow map",
        needs_data=True,
        auxiliary=("average",),
        elastic=True,
        backbone=("duration",),
        paper="arXiv:2410.12557",
        citation=cite(
            "frans2024shortcut",
            "Frans, Kevin and Hafner, Danijar and Levine, Sergey and Abbeel, Pieter",
            "One Step Diffusion via Shortcut Models",
            "2410.12557",
        ),
        fidelity="the published targets, lengths and shares; lengths are embedded as numbers, not "
        "as their logs",
    )

    def facts_for(self) -> Facts:
        """From scratch is another track, and needs no teacher."""
        c = self.config
        facts = replace(self.facts, auxiliary=("average",) if c.decay else ())
        if not c.distill:
            return replace(facts, track="from scratch", needs_teacher=False)
        return replace(
            facts,
            fidelity=f"{facts.fidelity}; the teacher's guided velocity stands for the data's",
        )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone (or a fresh one) with a second time input, and its average."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network) if c.distill else spec.fresh_network()
        network.add_duration()
        network.requires_grad_(True).train()
        self.guidance = teacher.guidance.scale if c.guidance is None else c.guidance
        modules: dict[str, Any] = {"student": network}
        if c.decay:
            modules["average"] = Average(network, c.decay)
        betas = c.beta1, c.beta2
        return Built(
            student=FlowMapStudent(network),
            modules=modules,
            optimizers={
                "student": Optimizer(("student",), c.lr, betas, c.weight_decay, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Regress the shortest steps on velocities, and longer ones on two of their halves."""
        c, random, condition = self.config, context.random, batch.condition
        assert batch.x0 is not None
        noise = random.normal("noise", batch.shape)
        longer = random.uniform("longer") < c.halves_share
        level = random.integers("level", int(log2(c.steps)))
        shortest = torch.full_like(level, int(log2(c.steps)))
        span = (0.5 ** torch.where(longer, level, shortest)).to(batch.x0)
        t = span * ((random.uniform("place").to(span) / span).floor() + 1)
        x = flow.interpolate(batch.x0, noise, t)
        if not c.distill:
            keep = random.uniform("class dropout") >= c.class_dropout
            condition = condition.where(keep, condition.null())
        target = context.teacher(x, t, condition) if c.distill else noise - batch.x0
        target = self._with_halves(target, longer, x, t, span, condition, context)
        prediction = average_velocity(context.networks["student"], x, t, t - span, condition)
        loss = (prediction - target).square().mean()
        yield Update("student", loss, scalars={"loss": loss.detach()})
        if c.decay:
            average = context.modules["average"]
            assert isinstance(average, Average)
            average.follow(context.modules["student"], context)

    def _with_halves(
        self,
        velocity: Tensor,
        longer: Tensor,
        x: Tensor,
        t: Tensor,
        span: Tensor,
        condition: Condition,
        context: Context,
    ) -> Tensor:
        """Velocities ``(B, *sample)``, but of longer steps what their two halves do.

        From scratch the shortest halves are guided, as published.
        """
        c, rows = self.config, longer.nonzero()[:, 0]
        name = "average" if c.decay else "student"
        guided = not c.distill and self.guidance != 1
        if not len(rows):
            # Sharded weights are gathered in a call: every process makes as many, these uncounted.
            network, first = context.modules[name], (x[:1], t[:1], t[:1] - span[:1], condition[:1])
            with torch.no_grad():
                for _ in range(4 if guided else 2):
                    average_velocity(network, *first)
            return velocity
        given = x[rows], t[rows], span[rows]
        found = halves(context.networks[name], *given, condition[rows], c.clip)
        if guided:
            null = halves(context.networks[name], *given, condition[rows].null(), c.clip)
            mixed = _clipped(null + self.guidance * (found - null), c.clip)
            shortest = flow.expand(span[rows] <= 2 / c.steps, x) > 0
            found = torch.where(shortest, mixed, found)
        target = velocity.clone()
        target[rows] = found.to(velocity)
        return target
