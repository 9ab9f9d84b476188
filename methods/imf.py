"""Improved MeanFlow (arXiv 2512.02012): average velocities that are told their guidance.

U(x, t, r, w, [a, b]) is the average velocity from time t to r < t of the flow guided with scale w
at times in [a, b]. It is MeanFlow's identity that is trained, but along a velocity which the
network knows: the tangent of the derivative is an estimate of the velocity at x, not noise - x0 of
one pair, so that the loss is a regression on velocities.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import log
from typing import Any

import torch
from piflow_methods.parts.derivatives import exact_derivative
from piflow_methods.parts.flow_maps import adaptive_loss, interval_times
from piflow_methods.parts.guidances import GuidedFlowMapStudent, inputs, teacher_guided_by
from torch import Tensor

from piflow_bench.api import (
    SCHEDULES,
    Batch,
    Built,
    Condition,
    Context,
    Facts,
    Guidance,
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

MIDDLE = 0.5
"""A time at which guidance of every interval that is trained holds."""


@dataclass(frozen=True)
class Config:
    """Settings of iMF; defaults are the paper's for ImageNet."""

    distill: bool = True  # the teacher's guided velocity replaces the student's own
    # trained scales are 1 to this, or to the teacher's where that is more
    guidance_most: float = setting(8.0, above=1)
    # of t and r, sorted
    time_mean: float = setting(-0.4, search=among(-0.4, -1.2))
    time_std: float = setting(1.0, above=0)
    # rows with r = t, independently
    instant_share: float = setting(0.5, least=0, most=1, search=between(0.25, 0.75))
    weight_floor: float = setting(0.01, above=0)  # c of the adaptive loss weight
    # of the products in dU/dt
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.95, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


@dataclass(frozen=True)
class Sampling:
    """Settings of the student's sampler: its guidance is an input, at no cost.

    What is not given is the teacher's.
    """

    guidance: float = setting(1.0, least=1)  # scale w
    guidance_low: float = setting(0.0, least=0, most=1)  # it holds for t in [low, high]
    guidance_high: float = setting(1.0, least=0, most=1)
    shift: float = setting(1.0, above=0)  # time warp of the grid


class ImprovedMeanFlow(Method):
    """Improved MeanFlow (arXiv 2512.02012): average velocities of any guidance, a scale as input.

    MeanFlow's identity, with the network's own estimate of the velocity (distilled: the teacher's)
    as the derivative's direction; guidance is an input that sampling chooses, at no evaluation.
    """

    Config = Config
    Sampling = Sampling
    facts = Facts(
        family="flow map",
        needs_data=True,
        jvp="exact",
        elastic=True,
        backbone=("duration", "guidance input"),
        guidance="at inference",
        paper="arXiv:2512.02012",
        citation=cite(
            "geng2025imf",
            "Geng, Zhengyang and Lu, Yiyang and Wu, Zongze and Shechtman, Eli and Kolter, J. Zico "
            "and He, Kaiming",
            "Improved Mean Flows: On the Challenges of Fastforward Generative Models",
            "2512.02012",
        ),
        fidelity="the published loss, times, scales and intervals; the velocity is the map's own "
        "over no time, not another head's, and guidance enters as time does, not by tokens",
    )

    def facts_for(self) -> Facts:
        """From scratch is another track, and needs no teacher."""
        if not self.config.distill:
            return replace(self.facts, track="from scratch", needs_teacher=False)
        words = f"{self.facts.fidelity}; the teacher's guided velocity stands for its own"
        return replace(self.facts, fidelity=words)

    def samples_with(self, sampling: Mapping[str, Any], nfe: int, guidance: Guidance) -> str | None:
        """Guidance is an input, of the scales and intervals that are trained."""
        most = self.most(guidance)
        scale = sampling.get("guidance", guidance.scale)
        if not 1 <= scale <= most:
            return (
                f"guidance={scale:g}: scales of 1 to {most:g} are trained; settings.guidance_most "
                "trains larger ones"
            )
        low = sampling.get("guidance_low", guidance.low)
        high = sampling.get("guidance_high", guidance.high)
        if not low <= MIDDLE <= high:
            return f"guidance in [{low:g}, {high:g}]: intervals around t = {MIDDLE:g} are trained"
        return None

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone (or a fresh one) with a second time and guidance as inputs."""
        c, own = self.config, teacher.guidance
        if own.scale < 1:
            raise ValueError(f"teacher.guidance={own.scale:g}: scales of at least 1 are trained")
        network: Any = copy.deepcopy(teacher.network) if c.distill else spec.fresh_network()
        network.add_duration()
        network.add_guidance(3)
        network.requires_grad_(True).train()
        return Built(
            student=GuidedFlowMapStudent(network, teachers=own, most=self.most(own)),
            modules={"student": network},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def most(self, teachers: Guidance) -> float:
        """The largest scale that is trained."""
        return max(self.config.guidance_most, teachers.scale)

    def guidances(self, moving: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Scales, of density 1 / w, and intervals of each row, ``(B,)`` each.

        Where r = t the interval is all of time: rows not ``moving``.
        """
        draws = context.random.uniform("guidance", (3,))
        scale = (draws[:, 0] * log(self.most(context.teacher.guidance))).exp()
        low = torch.where(moving, draws[:, 1] * MIDDLE, torch.zeros_like(scale))
        high = MIDDLE + draws[:, 2] * (1 - MIDDLE)
        return scale, low, torch.where(moving, high, torch.ones_like(scale))

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by ``U = v - (t - r) dU/dt`` along v, of a scale and interval a row."""
        c, student, condition = self.config, context.networks["student"], batch.condition
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        t, r = interval_times(context, c.time_mean, c.time_std, c.instant_share)
        x = flow.interpolate(batch.x0, noise, t)
        scale, low, high = self.guidances(t > r, context)
        told, inside = inputs(scale, low, high), (t >= low) & (t <= high)
        if c.distill:
            velocity = teacher_guided_by(context.teacher, x, t, scale, inside, condition)
            target = velocity
        else:
            keep = context.random.uniform("class dropout") >= c.class_dropout
            condition = condition.where(keep, condition.null())
            velocity, empty = self._own(x, t, told, condition, context)
            # Without a label the two are the same.
            pull = flow.expand(torch.where(inside, 1 - 1 / scale, 0 * scale), x)
            target = noise - batch.x0 + pull * (velocity - empty)
        target = target - self._drift(x, t, r, velocity, told, condition, context)
        error = student(x, t, condition, duration=t - r, guidance=told) - target
        loss = adaptive_loss(error, 1.0, c.weight_floor)
        yield Update("student", loss, scalars={"loss": error.detach().square().mean()})

    def _own(
        self, x: Tensor, t: Tensor, told: Tensor, condition: Condition, context: Context
    ) -> tuple[Tensor, Tensor]:
        """The student's own guided velocity, and that without a label: maps over no time."""
        with torch.no_grad():
            both = context.networks["student"](
                torch.cat([x, x]),
                torch.cat([t, t]),
                condition.cat(condition.null()),
                duration=torch.cat([0 * t, 0 * t]),
                guidance=torch.cat([told, told]),
            )
        velocity, empty = both.to(x).chunk(2)
        return velocity, empty

    def _drift(
        self,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        velocity: Tensor,
        told: Tensor,
        condition: Condition,
        context: Context,
    ) -> Tensor:
        """``(t - r) dU/dt`` along the velocity, 0 in rows where r = t."""
        rows = (t > r).nonzero()[:, 0]
        drift = torch.zeros_like(x)
        if not len(rows):
            # Sharded weights are gathered in a call: every process makes as many, this uncounted.
            with torch.no_grad():
                first = x[:1], t[:1], condition[:1], 0 * t[:1], told[:1]
                context.modules["student"](*first)
            return drift
        student = partial(context.networks["student"], guidance=told[rows])
        given = x[rows], t[rows], r[rows], velocity[rows], condition[rows], context
        slope = exact_derivative(student, *given, self.config.derivative_precision)
        drift[rows] = (flow.expand(t[rows] - r[rows], x) * slope).to(x)
        return drift
