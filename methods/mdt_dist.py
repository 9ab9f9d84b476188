"""MDT-dist (arXiv 2509.04406): the average velocity down to data, by two losses.

v(x, t) is the average velocity from time t to 0, so that x - t v(x, t) is the data. Velocity
matching regresses it on what its derivative along the teacher's flow asks for, on noised data,

    target = v_teacher - t dv/dt;

velocity distillation moves the student's own samples x = noise - v(noise, 1), noised again, by how
far the student is from the same target there. The paper divides the derivative by its norm, which
moves the fixed point; ``tangent_floor=null`` leaves it as it is. Whole from the start it drives a
small network away: near data first, where it is largest; ``tangent_warmup`` lets it grow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from piflow_methods.parts.derivatives import normalised, ramp
from piflow_methods.parts.stepping import EulerStudent
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
    cite,
    flow,
    log_between,
    setting,
)

JVP = ("finite-difference", "exact")


@dataclass(frozen=True)
class Config:
    """Settings of MDT-dist; defaults are the paper's."""

    matching_weight: float = setting(1.0, least=0)
    distillation_weight: float = setting(1.0, least=0, search=among(0.1, 1.0))
    # added to the norm that divides the derivative; None: it is as it is
    tangent_floor: float | None = setting(0.1, above=0, search=among(0.1, None))
    # share of the training over which the derivative is ramped up; the paper has none
    tangent_warmup: float = setting(0.0, least=0, most=1, search=among(0.0, 0.25, 1.0))
    jvp: str = setting("finite-difference", choices=JVP)
    difference_step: float = setting(0.01, above=0, below=1)  # in t, towards data
    time_mean: float = setting(1.0)  # of the logit-normal law
    time_std: float = setting(1.0, above=0)
    lr: float = setting(4e-8, least=0, search=log_between(4e-9, 4e-7))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if not self.matching_weight and not self.distillation_weight:
            raise ValueError("matching_weight=0 and distillation_weight=0: nothing is trained")


class MDTDist(Method):
    """MDT-dist (arXiv 2509.04406): average velocities to data, matched and distilled.

    On noised data the student learns what its own derivative along the teacher's flow asks for,
    and its samples are moved to where it agrees with that, too.
    """

    Config = Config
    facts = Facts(
        family="flow map",
        needs_data=True,
        jvp="finite difference",
        elastic=True,
        paper="arXiv:2509.04406",
        citation=cite(
            "zhou2025mdtdist",
            "Zhou, Zanwei and Yi, Taoran and Fang, Jiemin and Yang, Chen and Xie, Lingxi and Wang, "
            "Xinggang and Shen, Wei and Tian, Qi",
            "Few-step Flow for {3D} Generation via Marginal-Data Transport Distillation",
            "2509.04406",
        ),
        fidelity="the published losses, times, difference and weights; one guidance, the "
        "experiment's, where the paper has one for each loss",
    )

    def facts_for(self) -> Facts:
        """An exact derivative is told."""
        return replace(self.facts, jvp=self.config.jvp.replace("-", " "))

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        return Built(
            student=EulerStudent(network),
            modules={"student": network},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by both losses, at the same times and noise."""
        c, random, condition = self.config, context.random, batch.condition
        assert batch.x0 is not None
        student = context.networks["student"]
        noise = random.normal("noise", batch.shape)
        draw = (c.time_mean + c.time_std * random.normal("time")).sigmoid()
        t = c.difference_step + (1 - c.difference_step) * draw
        losses, told = [], {}
        if c.matching_weight:
            x = flow.interpolate(batch.x0, noise, t)
            _, target = self._agreement(x, t, condition, context)
            matching = (student(x, t, condition) - target).square().mean()
            losses.append(c.matching_weight * matching)
            told["matching"] = matching.detach()
        if c.distillation_weight:
            start = random.normal("start", batch.shape)
            whole = student(start, torch.ones_like(t), condition)
            x = flow.interpolate(start - whole.detach(), noise, t)
            value, target = self._agreement(x, t, condition, context)
            # The gradient in ``whole`` is 2 (value - target): the loss itself tells no progress.
            pulled = (value - target + whole - whole.detach()).square().mean()
            losses.append(c.distillation_weight * pulled)
            told["distillation"] = pulled.detach()
        loss = torch.stack(losses).sum()
        yield Update("student", loss, scalars={"loss": loss.detach(), **told})

    def _agreement(
        self, x: Tensor, t: Tensor, condition: Condition, context: Context
    ) -> tuple[Tensor, Tensor]:
        """The student's value at states x and times t, and its target there; no gradient."""
        c, student = self.config, context.networks["student"]
        velocity, h = context.teacher(x, t, condition), c.difference_step

        def average(x: Tensor, t: Tensor) -> Tensor:
            return student(x, t, condition)

        if c.jvp == "exact":
            value, slope = context.jvp(average, (x, t), (velocity, torch.ones_like(t)))
        else:
            # Two values that are nearly equal: of bfloat16 their difference would be noise.
            with torch.no_grad(), context.products("float32"):
                value = average(x, t)
                slope = (value - average(x - h * velocity, t - h)) / h
        if c.tangent_floor is not None:
            slope = normalised(slope, c.tangent_floor)
        part = ramp(context.progress, c.tangent_warmup)
        return value, velocity - part * flow.expand(t, x) * slope
