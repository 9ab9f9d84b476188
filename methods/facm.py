"""FACM (arXiv 2507.03738): a consistency model that keeps the flow as its anchor.

One network answers two questions: U(x, t), the average velocity from time t down to data, and
V(x, t), the velocity at t. V is regressed on velocities v, which anchors the network in the flow;
U is moved towards what its derivative along the flow asks for, by a share that grows with noise:

    target = U - (1 - (1 - t)^p) clamp(U - (v - t dU/dt), +-1),   of weight sin(pi t / 2).

The paper tells the two apart by expanded times, where V is asked at -t of a network that was
trained at t and -t beforehand, or by a second time condition. Here it is the latter: backbones
take times in [0, 1], and teachers know no other. The paper's time is 1 - t.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import pi, sqrt
from typing import Any

import torch
from piflow_methods.parts.derivatives import exact_derivative
from piflow_methods.parts.flow_maps import adaptive_loss
from piflow_methods.parts.renoising import WholeWayStudent
from piflow_methods.parts.stepping import average_velocity
from torch import Tensor
from torch.nn.functional import cosine_similarity

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
    """Settings of FACM; defaults are the official code's for distillation on ImageNet."""

    distill: bool = True  # the teacher's guided velocity replaces the data velocity
    anchor_weight: float = setting(1.0, least=0, search=among(0.1, 1.0))
    relaxation: float = setting(0.5, above=0, search=among(0.5, 1.0))  # p of the target's share
    clip: float | None = setting(1.0, above=0)  # of U's distance to its target, per element
    power: float = setting(0.5, least=0)  # of the adaptive loss weight
    weight_floor: float = setting(1e-3, above=0)  # c of the adaptive loss weight, per element
    # log tan(pi t / 2) of the times is normal
    time_mean: float = setting(-0.8, search=among(-0.8, 0.0))
    time_std: float = setting(1.6, above=0)
    # of the products in the derivative
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    guidance: float | None = setting(None)  # from scratch; None takes the teacher's
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


def move(
    average: Tensor,
    velocity: Tensor,
    slope: Tensor,
    t: Tensor,
    relaxation: float,
    clip: float | None,
) -> Tensor:
    """How far U lies from its target, ``(1 - (1 - t)^p) clamp(U - (v - t dU/dt))``.

    Args:
        average: U ``(B, *sample)`` at times t ``(B,)``.
        velocity: v.
        slope: dU/dt along v.
        t: see average.
        relaxation: p.
        clip: of elements; None: they are as they are.
    """
    apart = average - (velocity - flow.expand(t, slope) * slope)
    if clip is not None:
        apart = apart.clamp(-clip, clip)
    return flow.expand(1 - (1 - t) ** relaxation, apart) * apart


def anchoring(found: Tensor, velocity: Tensor) -> Tensor:
    """Mean squared error, and one minus the mean cosine over channels, of ``(B, C, *spatial)``.

    The cosine of a single channel is a sign, and has no gradient.
    """
    found = found.to(velocity)
    return (found - velocity).square().mean() + (1 - cosine_similarity(found, velocity, 1)).mean()


class FACM(Method):
    """FACM (arXiv 2507.03738): average velocities down to data, anchored by velocities.

    One network learns consistency by its exact derivative along the flow and, told apart by a
    second time, the flow itself, so that it does not forget what it differentiates along.
    """

    Config = Config
    facts = Facts(
        family="consistency",
        needs_data=True,
        jvp="exact",
        elastic=True,
        stochastic=True,
        backbone=("duration",),
        paper="arXiv:2507.03738",
        citation=cite(
            "peng2025facm",
            "Peng, Yansong and Zhu, Kai and Liu, Yu and Wu, Pingyu and Li, Hebei and Sun, Xiaoyan "
            "and Wu, Feng",
            "{FACM}: Flow-Anchored Consistency Models",
            "2507.03738",
        ),
        fidelity="the official code's losses, weights and times, with its second time condition "
        "in the place of expanded times, at which teachers are not trained here",
    )

    def facts_for(self) -> Facts:
        """From scratch is another track, and needs no teacher."""
        if self.config.distill:
            return self.facts
        return replace(
            self.facts,
            track="from scratch",
            needs_teacher=False,
            target="near where the data's flow, guided by its own velocities without label, ends: "
            "weights of errors move it",
        )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone (or a fresh one) with a second time input."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network) if c.distill else spec.fresh_network()
        network.add_duration()
        network.requires_grad_(True).train()
        scale = teacher.guidance.scale if c.guidance is None else c.guidance
        self.guidance = replace(teacher.guidance, scale=scale)
        return Built(
            student=WholeWayStudent(network, shift=1.0),
            modules={"student": network},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by consistency and anchor, at the same states."""
        c, student, condition = self.config, context.networks["student"], batch.condition
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        draw = c.time_mean + c.time_std * context.random.normal("time")
        t = draw.exp().arctan() * (2 / pi)
        x = flow.interpolate(batch.x0, noise, t)
        if c.distill:
            velocity = context.teacher(x, t, condition)
        else:
            condition, velocity = self._data_velocity(x, t, noise - batch.x0, condition, context)
        end = torch.zeros_like(t)
        slope = exact_derivative(
            student, x, t, end, velocity, condition, context, c.derivative_precision
        )
        prediction = average_velocity(student, x, t, end, condition)
        held = prediction.detach()
        error = prediction - held + move(held, velocity, slope, t, c.relaxation, c.clip)
        weight = (t * (pi / 2)).sin()
        consistency = adaptive_loss(error / sqrt(error[0].numel()), c.power, c.weight_floor, weight)
        anchor = anchoring(average_velocity(student, x, t, t, condition), velocity)
        loss = consistency + c.anchor_weight * anchor
        told = {"loss": loss, "consistency": consistency, "anchor": anchor}
        yield Update("student", loss, scalars={k: v.detach() for k, v in told.items()})

    def _data_velocity(
        self, x: Tensor, t: Tensor, v: Tensor, condition: Condition, context: Context
    ) -> tuple[Condition, Tensor]:
        """Class dropout, and data velocities v guided away from the anchor's without label."""
        c, student = self.config, context.networks["student"]
        keep = context.random.uniform("class dropout") >= c.class_dropout
        dropped = condition.where(keep, condition.null())
        if not self.guidance.on:
            return dropped, v
        with torch.no_grad():
            null = average_velocity(student, x, t, t, condition.null()).to(v)
        inside = flow.expand((keep & self.guidance.holds(t)).float(), x) > 0
        return dropped, torch.where(inside, flow.guide(v, null, self.guidance.scale), v)
