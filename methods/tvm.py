"""Terminal velocity matching (TVM, arXiv 2511.19797): a map's end moves with the velocity there.

U(x, t, s) is the average velocity from time t down to s, so that the map ends in

    X(s) = x - (t - s) U(x, t, s),   dX/ds = U - (t - s) dU/ds.

That derivative is regressed on a velocity at X(s), which is the map's own over no time, of an
average of its weights; over no time the map itself is regressed on velocities of data. Both losses
have weight 1 / omega^2 where the guidance is omega, and from scratch the network is scaled by it.

The loss needs the gradient of a derivative. That of torch's forward mode is wrong through layer
norms (2.14), and fails where activations are recomputed; twice backward there is none through fast
attention. Here the derivative is exact, and its gradient a central difference's in s: where the
loss is 0 so is that, whatever the step; elsewhere its error is of second order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.consistency import Average
from piflow_methods.parts.derivatives import differenced_end, end_derivative
from piflow_methods.parts.stepping import FlowMapStudent, average_velocity
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
    """Settings of TVM; defaults are the official code's for ImageNet."""

    distill: bool = True  # the teacher's guided velocity replaces the data velocity
    jvp: str = setting("exact", choices=("exact", "finite-difference"))
    difference_step: float = setting(0.05, above=0, most=0.5)  # in s, within [0, t]
    # of the products in the exact derivative
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    # of the logit-normal laws of lengths t - s, and of ends s
    gap_mean: float = setting(-0.8, search=among(-0.8, 0.0, 0.8))
    gap_std: float = setting(1.0, above=0)
    end_mean: float = setting(-0.4)
    end_std: float = setting(1.0, above=0)
    # of the running average that tells velocities at ends
    decay: float = setting(0.99, least=0, below=1, search=among(0.9, 0.99, 0.999))
    # from scratch: omega; None takes the teacher's
    guidance: float | None = setting(None, above=0)
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.95, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


def interval(gap: Tensor, quantile: Tensor, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Times ``t > s`` ``(B,)`` that are gaps ``(B,)`` in (0, 1) apart.

    The ends s have the logit-normal law of mean and std, cut off where t would be above 1.
    """
    most = torch.special.ndtr(((1 - gap.double()).logit() - mean) / std)
    s = (mean + std * torch.special.ndtri(quantile * most)).sigmoid().to(gap)
    return (s + gap).clamp(max=1), s


def labelled(condition: Condition, like: Tensor) -> Tensor:
    """Which rows ``(B,)`` have a condition, on the device of another tensor."""
    return (condition.pack() != condition.null().pack())[:, None].flatten(1).any(1).to(like.device)


class Scaled(nn.Module):
    """Average velocities ``omega F`` of rows with a condition, and F of those without.

    Velocities grow with guidance; F, which is what the network gives, does not.
    """

    def __init__(self, network: nn.Module, omega: float) -> None:
        super().__init__()
        self.network, self.omega = network, omega

    def forward(self, x: Tensor, t: Tensor, condition: Condition, duration: Tensor) -> Tensor:
        """Average velocities ``(B, *sample)`` from times t over durations ``(B,)``."""
        scale = torch.where(labelled(condition, x), self.omega, 1.0)
        return flow.expand(scale, x) * self.network(x, t, condition, duration=duration)


class TVM(Method):
    """Terminal velocity matching (TVM, arXiv 2511.19797): flow maps, trained at their ends.

    The derivative of where a map ends, in its end's time, is matched to the velocity there, which
    the map itself has over no time; gradients run through the derivative.
    """

    Config = Config
    facts = Facts(
        family="flow map",
        needs_data=True,
        jvp="exact",
        auxiliary=("average",),
        elastic=True,
        backbone=("duration",),
        paper="arXiv:2511.19797",
        citation=cite(
            "zhou2025tvm",
            "Zhou, Linqi and Parger, Mathias and Haque, Ayaan and Song, Jiaming",
            "Terminal Velocity Matching",
            "2511.19797",
        ),
        fidelity="the official code's losses, weights and times; the derivative's gradient is a "
        "central difference's, one guidance is trained, which is no input, and norms are the "
        "teacher's, not the paper's",
    )

    def facts_for(self) -> Facts:
        """From scratch is another track, and needs no teacher."""
        facts = replace(self.facts, jvp=self.config.jvp.replace("-", " "))
        if not self.config.distill:
            return replace(facts, track="from scratch", needs_teacher=False)
        words = f"{facts.fidelity}; the teacher's guided velocity stands for the data's"
        return replace(facts, fidelity=words)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone (or a fresh one, scaled) with a second time, and its average."""
        c = self.config
        backbone: Any = copy.deepcopy(teacher.network) if c.distill else spec.fresh_network()
        backbone.add_duration()
        scale = teacher.guidance.scale if c.guidance is None else c.guidance
        self.guidance = replace(teacher.guidance, scale=scale)
        self.omega = 1.0 if c.distill else max(scale, 1.0)
        network = backbone if c.distill else Scaled(backbone, self.omega)
        network.requires_grad_(True).train()
        return Built(
            student=FlowMapStudent(network),
            modules={"student": network, "average": Average(network, c.decay)},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by the velocity at the map's end, and by velocities of data."""
        c, random, condition = self.config, context.random, batch.condition
        student, average = context.networks["student"], context.networks["average"]
        assert batch.x0 is not None
        noise = random.normal("noise", batch.shape)
        gap = (c.gap_mean + c.gap_std * random.normal("gap")).sigmoid()
        t, s = interval(gap, random.uniform("end"), c.end_mean, c.end_std)
        now = (c.end_mean + c.end_std * random.normal("instant")).sigmoid()
        x = flow.interpolate(batch.x0, noise, now)
        if c.distill:
            velocity = context.teacher(x, now, condition)
        else:
            condition, velocity = self._data_velocity(x, now, noise - batch.x0, condition, context)
        instant = average_velocity(student, x, now, now, condition) - velocity
        x = flow.interpolate(batch.x0, noise, t)
        end, moved = self._end(x, t, s, condition, context)
        with torch.no_grad():
            goal = average_velocity(average, end, s, s, condition)
        weight = torch.where(labelled(condition, noise), self.omega, 1.0).to(noise) ** -2
        errors = (error.flatten(1).square().mean(1) for error in (moved - goal, instant))
        by_end, by_data = ((weight * error).mean() for error in errors)
        told = {"loss": by_end + by_data, "terminal": by_end, "velocity": by_data}
        yield Update("student", told["loss"], scalars={k: v.detach() for k, v in told.items()})
        follower = context.modules["average"]
        assert isinstance(follower, Average)
        follower.follow(context.modules["student"], context)

    def _end(
        self, x: Tensor, t: Tensor, s: Tensor, condition: Condition, context: Context
    ) -> tuple[Tensor, Tensor]:
        """X(s) without gradient, and dX/ds with one, ``(B, *sample)`` each: see the module."""
        c, student = self.config, context.networks["student"]
        moved = differenced_end(student, x, t, s, condition, c.difference_step)
        span = flow.expand(t - s, x)
        if c.jvp == "exact":
            precision = c.derivative_precision
            value, slope = end_derivative(student, x, t, s, condition, context, precision)
            moved = value - span * slope + moved - moved.detach()
        else:
            with torch.no_grad():
                value = average_velocity(student, x, t, s, condition)
        return (x - span * value).to(x), moved

    def _data_velocity(
        self, x: Tensor, t: Tensor, v: Tensor, condition: Condition, context: Context
    ) -> tuple[Condition, Tensor]:
        """Class dropout, and data velocities v guided away from the average's without label."""
        keep = context.random.uniform("class dropout") >= self.config.class_dropout
        dropped = condition.where(keep, condition.null())
        if not self.guidance.on:
            return dropped, v
        with torch.no_grad():
            null = average_velocity(context.networks["average"], x, t, t, condition.null())
        inside = flow.expand((labelled(dropped, x) & self.guidance.holds(t)).float(), x) > 0
        return dropped, torch.where(inside, flow.guide(v, null.to(v), self.guidance.scale), v)
