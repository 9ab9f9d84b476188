"""MeanFlow (arXiv 2505.13447): average velocities, from scratch or distilled from the teacher."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.derivatives import differenced, exact_derivative
from piflow_methods.parts.stepping import FlowMapStudent
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

TIME_LAWS = ("logit-normal", "uniform")
JVP = ("exact", "finite-difference")


@dataclass(frozen=True)
class Config:
    """Settings of MeanFlow; defaults are the paper's for ImageNet."""

    distill: bool = True  # the teacher's guided velocity replaces the data velocity
    # of two draws t is the larger
    time_law: str = setting("logit-normal", choices=TIME_LAWS, search=among(*TIME_LAWS))
    time_mean: float = setting(-0.4)  # of the logit-normal law
    time_std: float = setting(1.0, above=0)
    # the second draw's own logit-normal law; None: as the first
    end_mean: float | None = setting(None, search=among(None, -4.0))
    end_std: float = setting(1.6, above=0)
    # rows with r = t, independently
    instant_share: float = setting(0.75, least=0, most=1, search=between(0.25, 0.75))
    # p of the adaptive loss weight
    power: float = setting(1.0, least=0, search=between(0.5, 1.0))
    weight_floor: float = setting(0.01, above=0)  # c of the adaptive loss weight, per sample
    jvp: str = setting("exact", choices=JVP, search=among(*JVP))
    # in t, along the target velocity; at most half the interval
    difference_step: float = setting(0.05, above=0, most=0.5)
    # of the products in dU/dt
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    tangent_warmup: int = setting(0, least=0)  # steps over which the derivative term is ramped up
    # from scratch: w (1 - kappa); None takes it from the teacher's w
    omega: float | None = setting(None)
    # from scratch: share of the class-conditional self-prediction
    kappa: float = setting(0.0, least=0, below=1)
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.95, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


@dataclass(frozen=True)
class Sampling:
    """Settings of the student's sampler."""

    shift: float = setting(1.0, above=0)  # time warp of the grid


def adaptive_loss(error: Tensor, power: float, floor: float) -> Tensor:
    """``mean_B |e|^2 / sg(|e|^2 + c)^p`` over squared norms of errors ``(B, *sample)``."""
    squared = error.flatten(1).square().sum(1)
    return (squared / (squared.detach() + floor) ** power).mean()


class MeanFlow(Method):
    """MeanFlow (arXiv 2505.13447): average velocities; one elastic student serves every NFE.

    The mean velocity between two times satisfies an identity with its own derivative along the
    path, which is what is trained.
    """

    Config = Config
    facts = Facts(
        family="flow map",
        needs_data=True,
        jvp="exact",
        elastic=True,
        backbone=("duration",),
        paper="arXiv:2505.13447",
        citation=cite(
            "geng2025meanflow",
            "Geng, Zhengyang and Deng, Mingyang and Bai, Xingjian and Kolter, J. Zico and He, "
            "Kaiming",
            "Mean Flows for One-step Generative Modeling",
            "2505.13447",
        ),
        fidelity="from scratch the published recipe; distilled, the teacher's guided velocity "
        "stands for the data's",
        version=3,
    )
    Sampling = Sampling

    def facts_for(self) -> Facts:
        """From scratch is another track and needs no teacher."""
        c = self.config
        return replace(
            self.facts,
            track="distilled" if c.distill else "from scratch",
            needs_teacher=c.distill,
            jvp="exact" if c.jvp == "exact" else "finite difference",
        )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone (or a fresh one) with a second time input."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network) if c.distill else spec.fresh_network()
        network.add_duration()
        network.requires_grad_(True).train()
        self.guidance = teacher.guidance
        return Built(
            student=FlowMapStudent(network),
            modules={"student": network},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def times(self, context: Context) -> tuple[Tensor, Tensor]:
        """Times ``t >= r`` of each row, ``(B,)``."""
        c, random = self.config, context.random
        if c.time_law == "uniform":
            draws = random.uniform("times", (2,))
        else:
            draws = (c.time_mean + c.time_std * random.normal("times", (2,))).sigmoid()
        first, second = draws.unbind(1)
        if c.end_mean is not None:
            second = (c.end_mean + c.end_std * random.normal("end")).sigmoid()
        t, r = torch.maximum(first, second), torch.minimum(first, second)
        return t, torch.where(random.uniform("instant") < c.instant_share, t, r)

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by the MeanFlow identity ``U = v - (t - r) dU/dt``."""
        c, student = self.config, context.networks["student"]
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        t, r = self.times(context)
        x = flow.interpolate(batch.x0, noise, t)
        condition = batch.condition
        if c.distill:
            velocity = context.teacher(x, t, condition)
        else:
            condition, velocity = self._data_velocity(x, t, noise - batch.x0, condition, context)
        target = velocity.clone()
        rows = (t > r).nonzero()[:, 0]
        if len(rows):
            ramp = min((context.step + 1) / c.tangent_warmup, 1.0) if c.tangent_warmup else 1.0
            slope = self.derivative(
                student, x[rows], t[rows], r[rows], velocity[rows], condition[rows], context
            )
            span = flow.expand(t[rows] - r[rows], x)
            target[rows] = velocity[rows] - ramp * span * slope
        else:
            # Sharded weights are gathered in a call: every process makes as many, counted or not.
            with torch.no_grad():
                context.modules["student"](x[:1], t[:1], condition[:1], duration=t[:1] - r[:1])
        prediction = student(x, t, condition, duration=t - r)
        loss = adaptive_loss(prediction - target, c.power, c.weight_floor)
        error = (prediction - target).detach().square().mean()
        yield Update("student", loss, scalars={"loss": error})

    def derivative(
        self,
        student: Any,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        velocity: Tensor,
        condition: Condition,
        context: Context,
    ) -> Tensor:
        """Total derivative dU/dt along (velocity, dr = 0, dt = 1)."""
        c = self.config
        if c.jvp == "exact":
            return exact_derivative(
                student, x, t, r, velocity, condition, context, c.derivative_precision
            )
        return differenced(
            student,
            x,
            t,
            r,
            velocity,
            condition,
            context,
            c.derivative_precision,
            c.difference_step,
        )

    def _data_velocity(
        self, x: Tensor, t: Tensor, v: Tensor, condition: Condition, context: Context
    ) -> tuple[Condition, Tensor]:
        """Class dropout, and the guided velocity from the student's own predictions."""
        c, student = self.config, context.networks["student"]
        keep = context.random.uniform("class dropout") >= c.class_dropout
        w = self.guidance.scale
        omega = w * (1 - c.kappa) if c.omega is None else c.omega
        mixed = v
        if omega != 1 or c.kappa != 0:
            inside = keep & self.guidance.holds(t)
            with torch.no_grad():
                zero = torch.zeros_like(t)
                mixed = omega * v + (1 - omega - c.kappa) * student(
                    x, t, condition.null(), duration=zero
                )
                if c.kappa:
                    mixed = mixed + c.kappa * student(x, t, condition, duration=zero)
            mixed = torch.where(flow.expand(inside.float(), x) > 0, mixed, v)
        return condition.where(keep, condition.null()), mixed
