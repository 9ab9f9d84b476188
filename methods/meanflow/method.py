"""MeanFlow's training step, and the facts of each paper whose settings it is given."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from piflow_methods.meanflow.config import ALPHA_FLOW, AYF, LSD, SOFLOW, TIM, Config, Sampling
from piflow_methods.parts.derivatives import (
    differenced,
    end_derivative,
    exact_derivative,
    normalised,
)
from piflow_methods.parts.flow_maps import (
    adaptive_loss,
    row_weight,
    secant_target,
)
from piflow_methods.parts.stepping import FlowMapStudent
from torch import Tensor

from piflow_bench.api import (
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
    cite,
    flow,
)


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
        """From scratch is another track and needs no teacher; settings are of several papers."""
        c = self.config
        paper, citation, fidelity = self.facts.paper, self.facts.citation, self.facts.fidelity
        if c.ratio_start or c.ratio_end:
            paper, citation = SOFLOW if c.residual else ALPHA_FLOW
            fidelity = "the paper's targets, ratios and weights; times and guidance are MeanFlow's"
        elif c.tangent_floor is not None:
            paper, citation = AYF
            fidelity = (
                "the paper's loss; the guided teacher, not an autoguided one, times as MeanFlow's, "
                "and no adversarial end"
            )
        elif c.identity == "end":
            paper, citation = LSD
            fidelity = "the paper's loss; times, weights and guidance are MeanFlow's"
        elif c.row_weight == "tangents":
            paper, citation = TIM
            fidelity = (
                "the paper's derivative, times and weights, without its cosine loss and alignment "
                "of features"
            )
        return replace(
            self.facts,
            track="distilled" if c.distill else "from scratch",
            needs_teacher=c.distill,
            jvp=c.derivative,
            paper=paper,
            citation=citation,
            fidelity=fidelity,
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
        kind = random.uniform("instant")
        r = torch.where(kind >= 1 - c.whole_share, torch.zeros_like(r), r)
        return t, torch.where(kind < c.instant_share, t, r)

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by the MeanFlow identity ``U = v - (t - r) dU/dt``."""
        c, student = self.config, context.networks["student"]
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        t, r = self.times(context)
        x = flow.interpolate(batch.x0, noise, t)
        given = x, t, r, noise - batch.x0, batch.condition, context
        ratio = c.ratio(context.progress)
        if c.identity == "end":
            condition, target = self._by_the_end(*given)
        else:
            condition, target = self._by_the_start(*given, ratio)
        prediction = student(x, t, condition, duration=t - r)
        error, weight = prediction - target, row_weight(c.row_weight, t, r)
        told = {"loss": error.detach().square().mean()}
        if ratio:
            shares = torch.where(t > r, ratio, torch.ones_like(t))
            weight = weight * shares**c.ratio_power
            if c.residual:
                error = error / flow.expand(shares, x)
        if c.tangent_floor is not None:
            bounded = normalised(error.detach(), c.tangent_floor)
            bounded = prediction - prediction.detach() + bounded
            error = torch.where(flow.expand(t - r, x) > 0, bounded, error)
        loss = adaptive_loss(error, c.power, c.weight_floor, weight)
        yield Update("student", loss, scalars=told)

    def _by_the_start(
        self,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        data_velocity: Tensor,
        condition: Condition,
        context: Context,
        ratio: float,
    ) -> tuple[Condition, Tensor]:
        """Conditions, and targets in which the interval's start is moved along the velocity."""
        c, student = self.config, context.networks["student"]
        if c.distill:
            velocity = context.teacher(x, t, condition)
        else:
            condition, velocity = self._data_velocity(x, t, data_velocity, condition, context)
        rows = (t > r).nonzero()[:, 0]
        if not len(rows):
            self._call(context, x, t, r, condition)
            return condition, velocity
        given = x[rows], t[rows], r[rows], velocity[rows], condition[rows]
        if ratio:
            found = secant_target(student, *given, ratio)
        else:
            found = self._limit(student, *given, context)
        target, clip = velocity.clone(), c.target_clip
        target[rows] = found if clip is None else found.clamp(-clip, clip)
        return condition, target

    def _by_the_end(
        self,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        data_velocity: Tensor,
        condition: Condition,
        context: Context,
    ) -> tuple[Condition, Tensor]:
        """The same where its end is moved: ``v(x_r, r) + (t - r) dU/dr`` at the map's own x_r.

        From scratch v is the map's own over no time.
        """
        c, student = self.config, context.networks["student"]
        if not c.distill:
            condition, velocity = self._data_velocity(x, t, data_velocity, condition, context)
        rows = (t > r).nonzero()[:, 0]
        at, when, drift = x.clone(), torch.where(t > r, r, t), torch.zeros_like(x)
        if len(rows):
            value, slope = end_derivative(
                student, x[rows], t[rows], r[rows], condition[rows], context, c.derivative_precision
            )
            span = flow.expand(t[rows] - r[rows], x)
            at[rows] = (x[rows] - span * value).to(x)
            drift[rows] = (self._ramp(context) * span * slope).to(x)
        else:
            self._call(context, x, t, r, condition)
        if c.distill:
            velocity = context.teacher(at, when, condition)
        elif len(rows):
            with torch.no_grad():
                own = student(at[rows], when[rows], condition[rows], duration=0 * when[rows])
            velocity = velocity.clone()
            velocity[rows] = own.to(velocity)
        else:
            self._call(context, x, t, r, condition)
        return condition, velocity + drift

    def _call(
        self, context: Context, x: Tensor, t: Tensor, r: Tensor, condition: Condition
    ) -> None:
        """Call the network as often as a process with intervals does, uncounted.

        Sharded weights are gathered in a call: every process makes as many.
        """
        with torch.no_grad():
            context.modules["student"](x[:1], t[:1], condition[:1], duration=t[:1] - r[:1])

    def _ramp(self, context: Context) -> float:
        """Weight of what has a derivative in it."""
        warmup = self.config.tangent_warmup
        return min((context.step + 1) / warmup, 1.0) if warmup else 1.0

    def _limit(
        self,
        student: Any,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        velocity: Tensor,
        condition: Condition,
        context: Context,
    ) -> Tensor:
        """MeanFlow's target ``v - (t - r) dU/dt``."""
        slope = self.derivative(student, x, t, r, velocity, condition, context)
        return velocity - self._ramp(context) * flow.expand(t - r, x) * slope

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
