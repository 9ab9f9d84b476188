"""Inductive moment matching (IMM, arXiv 2503.07565): maps from two times agree in distribution.

U(x, t, s) is an average velocity, so f_{s,t}(x) = x - (t - s) U(x, t, s) is a sample at time s.
Groups of M particles, of any labels, share s <= r < t. By the squared maximum mean discrepancy

    w(t) / M^2 sum_jk [k(y_j, y_k) + k(z_j, z_k) - 2 k(y_j, z_k)],
    y = f_{s,t}(x_t),  z = f_{s,r}(x_r) without gradient,  k(y, z) = exp(-|y - z| / (D (t - s))),

what is made from t is matched to what is made from r. Pairs of one index have one path, which keeps
a map to it; it is also why steps from t to r of finite length move the fixed point, by first order.
Noise has deviation 1 here and half of it in the paper: kernel and weight are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import torch
from piflow_methods.parts.guidances import TwiceAskedStudent
from piflow_methods.parts.stepping import average_velocity
from torch import Tensor

from piflow_bench.api import (
    SCHEDULES,
    Batch,
    Built,
    Context,
    Facts,
    Guidance,
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

FIDELITY = (
    "after the paper's text, since its authors publish no training code: the kernel, groups, times "
    "and weights; the network's input is not scaled"
)
FLOOR = 1e-8
"""Of distances in the kernel: below it they have no gradient."""


@dataclass(frozen=True)
class Config:
    """Settings of IMM; defaults are the paper's for ImageNet."""

    distill: bool = True  # r is reached by a step of the guided teacher, else with the data
    particles: int = setting(4, least=1, search=among(2, 4, 8))  # M, rows of a group
    # k: from t to r the ratio of noise to data falls by its range / 2^k
    halvings: int = setting(12, least=1, search=among(8, 10, 12))
    start: float = setting(0.994, above=0, below=1)  # T, the latest time
    weight_shift: float = setting(4.0)  # b, of the log signal-to-noise ratio in the weight
    weight_power: float = setting(2.0, least=1, search=among(1.0, 2.0))  # a, of 1 - t in it
    guided: bool = False  # from scratch: at inference, two evaluations a step
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.guided and self.distill:
            raise ValueError("guided=true: what is distilled is guided already; distill=false")


@dataclass(frozen=True)
class Sampling:
    """Settings of the student's sampler, where it is guided."""

    guidance: float = setting(1.0, least=0)  # scale, in place of the experiment's


def nearer_time(t: Tensor, s: Tensor, start: float, halvings: int) -> Tensor:
    """Times r in [s, t) ``(B,)``: t / (1 - t) less its range / 2^halvings."""
    ratio = (t / (1 - t) - start / (1 - start) / 2**halvings).clamp(min=0)
    return torch.maximum(ratio / (1 + ratio), s)


def time_weight(t: Tensor, shift: float, power: float) -> Tensor:
    """Weights ``sigmoid(b - l) (-dl/dt) (1 - t)^a / (t^2 + (1 - t)^2) / 2`` of times ``(G,)``.

    l = 2 log((1 - t) / t); the quotients are cancelled, so that it is 0 at t = 0.
    """
    up, data = exp(shift), 1 - t
    return up * t * data ** (power - 1) / ((up * t**2 + data**2) * (t**2 + data**2))


def kernel(y: Tensor, z: Tensor, span: Tensor) -> Tensor:
    """Laplace kernel ``exp(-|y_j - z_k| / (D span))`` ``(G, M, M)`` of groups ``(G, M, D)``."""
    squared = (y[:, :, None] - z[:, None]).square().sum(-1)
    distance = squared.clamp(min=FLOOR**2).sqrt() / y.shape[-1]
    return (-distance / span.clamp(min=1e-6)[:, None, None]).exp()


def discrepancy(y: Tensor, z: Tensor, span: Tensor) -> Tensor:
    """Squared MMD ``(G,)`` of groups ``(G, M, D)``, all pairs counted."""
    return (kernel(y, y, span) + kernel(z, z, span) - 2 * kernel(y, z, span)).mean((1, 2))


class IMM(Method):
    """IMM (arXiv 2503.07565): flow maps from two times, matched in distribution by a kernel.

    Particles of a group repel one another and are drawn to what the map makes from a slightly
    earlier time; no second network and no derivative is needed.
    """

    Config, Sampling = Config, Sampling
    facts = Facts(
        family="flow map, distribution matching",
        needs_data=True,
        elastic=True,
        backbone=("duration",),
        paper="arXiv:2503.07565",
        citation=cite(
            "zhou2025imm",
            "Zhou, Linqi and Ermon, Stefano and Song, Jiaming",
            "Inductive Moment Matching",
            "2503.07565",
        ),
        fidelity=f"{FIDELITY}; ours: r is reached by a step of the guided teacher, not with the "
        "data's noise",
    )

    def facts_for(self) -> Facts:
        """From scratch is another track, needs no teacher, and may be guided at inference."""
        c = self.config
        facts = replace(self.facts, group=c.particles)
        if c.distill:
            return facts
        return replace(
            facts,
            fidelity=FIDELITY,
            track="from scratch",
            needs_teacher=False,
            guidance="at inference" if c.guided else "none",
            target="at the data's distribution" + ", moved by guidance at inference" * c.guided,
        )

    def serves(self, nfe: int) -> str | None:
        """Guidance needs an even number of evaluations."""
        if self.config.guided and nfe % 2:
            return "spends two evaluations a guided step, so it serves even NFEs"
        return None

    def samples_with(self, sampling: Mapping[str, Any], nfe: int, guidance: Guidance) -> str | None:
        """Guidance is of a student whose settings have it guided."""
        if "guidance" in sampling and not self.config.guided:
            return "guidance is of a student whose settings have guided=true"
        return None

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone (or a fresh one) with a second time input."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network) if c.distill else spec.fresh_network()
        network.add_duration()
        network.requires_grad_(True).train()
        scale = teacher.guidance.scale if c.guided else None
        adam = Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
        student = TwiceAskedStudent(network, c.start, scale)
        return Built(student, {"student": network}, {"student": adam})

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by the discrepancy of groups of consecutive rows, whose times are shared."""
        c, condition, student = self.config, batch.condition, context.networks["student"]
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        draws = context.random.uniform("times", (2,))[:: c.particles]
        at, end = c.start * draws[:, 0], c.start * draws.prod(1)
        t, s = (time.repeat_interleave(c.particles) for time in (at, end))
        r = nearer_time(t, s, c.start, c.halvings)
        x = flow.interpolate(batch.x0, noise, t)
        if c.distill:
            nearer = x - flow.expand(t - r, x) * context.teacher(x, t, condition)
        else:
            keep = context.random.uniform("class dropout") >= c.class_dropout
            condition = condition.where(keep, condition.null())
            nearer = flow.interpolate(batch.x0, noise, r)
        y = x - flow.expand(t - s, x) * average_velocity(student, x, t, s, condition)
        # They differ by as little as their times do: a rounded target would be noise.
        with torch.no_grad(), context.products("float32"):
            z = nearer - flow.expand(r - s, x) * average_velocity(student, nearer, r, s, condition)
        groups = (made.flatten(1).unflatten(0, (-1, c.particles)) for made in (y, z))
        apart = discrepancy(*groups, at - end)
        loss = (time_weight(at, c.weight_shift, c.weight_power) * apart).mean()
        told = {"loss": loss.detach(), "discrepancy": apart.detach().mean()}
        yield Update("student", loss, scalars=told)
