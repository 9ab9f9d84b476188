"""AnyFlow (arXiv 2605.13724): a flow map for any number of steps, then matched on its own samples.

Stage 1 distils U(x, t, r), the average velocity from time t to r, along the teacher's flow:

    target = v - (t - r) dU/dt,   of weight t sqrt(1 - t),

with a central difference for the derivative. Stage 2 moves the samples of the map's own rollouts
in a few steps along the direction of distribution matching, through one random step of each.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from piflow_methods.parts.derivatives import differenced
from piflow_methods.parts.fake_score import denoising_loss
from piflow_methods.parts.flow_maps import adaptive_loss, interval_times, row_weight
from piflow_methods.parts.matching import matched
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
    """Settings of AnyFlow; what the paper leaves open is as in TiM and DMD2."""

    # of the training, the first stage's
    first_share: float = setting(0.5, least=0, most=1, search=between(0.25, 0.75))
    time_mean: float = setting(-0.4)  # of two logit-normal draws t is the larger
    time_std: float = setting(1.0, above=0)
    instant_share: float = setting(0.5, least=0, most=1)  # rows with r = t
    whole_share: float = setting(0.25, least=0, most=1)  # rows with r = 0
    difference_step: float = setting(0.005, above=0, most=0.5)  # in t, along the velocity
    weight_floor: float = setting(1e-5, above=0)  # c of the adaptive loss weight
    steps: int = setting(4, least=1)  # of the second stage's rollouts
    step_shift: float = setting(5.0, above=0)  # time warp of their grid
    matching_shift: float = setting(5.0, above=0)  # time warp of the uniform times of matching
    # of the second stage's steps one moves the student, the others train the fake score
    ratio: int = setting(5, least=2, search=among(2, 5))
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    fake_lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.instant_share + self.whole_share > 1:
            raise ValueError("instant_share and whole_share are at most 1 together")


@dataclass(frozen=True)
class Sampling:
    """Settings of the student's sampler."""

    shift: float = setting(1.0, above=0)  # time warp of the grid


def rollout(
    network: Any, noise: Tensor, times: Tensor, chosen: int, condition: Condition
) -> Tensor:
    """The end of the map's steps from noise ``(B, *sample)``; one of them has a gradient.

    The later steps are added as they are: none of them changes what moves the chosen one's end.

    Args:
        network: ``U(x, t, r)`` as :func:`average_velocity` asks it.
        noise: states at ``times[0]``.
        times: of the steps, descending to 0.
        chosen: the step with a gradient.
        condition: of the samples.
    """
    x = noise
    for i, (t, r) in enumerate(zip(times[:-1], times[1:], strict=True)):
        at = t.expand(len(x)).to(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and i == chosen):
            moved = (t - r) * average_velocity(network, x, at, r.to(x), condition)
        x = x - moved
    return x


class AnyFlow(Method):
    """AnyFlow (arXiv 2605.13724): a flow map, then matched to the teacher on its own samples.

    Average velocities are distilled by a difference quotient; in the second stage samples of the
    map's own steps are moved to where the teacher and a network trained on them agree.
    """

    Config = Config
    Sampling = Sampling
    facts = Facts(
        family="flow map, distribution matching",
        needs_data=True,
        jvp="finite difference",
        auxiliary=("fake_score",),
        elastic=True,
        backbone=("duration",),
        paper="arXiv:2605.13724",
        citation=cite(
            "anyflow2026",
            "{NVIDIA}",
            "AnyFlow: Any-Step Video Diffusion Model with On-Policy Flow Map Distillation",
            "2605.13724",
        ),
        fidelity="the published stages, weights, shares and rollouts, for images; training code is "
        "unpublished: shares of the stages, turns and times of matching are ours",
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Student with a second time input, and fake score, both from the teacher."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network)
        network.add_duration()
        network.requires_grad_(True).train()
        fake = copy.deepcopy(teacher.network).requires_grad_(True).train()
        betas = (c.beta1, c.beta2)
        return Built(
            student=FlowMapStudent(network),
            modules={"student": network, "fake_score": fake},
            optimizers={
                "student": Optimizer(("student",), c.lr, betas, 0.0, c.schedule),
                "fake": Optimizer(("fake_score",), c.fake_lr, betas, 0.0, c.schedule),
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """The flow map's step in the first stage; in the second a turn of either network."""
        c, condition = self.config, batch.condition
        if context.progress < c.first_share:
            loss = self._map_loss(batch, context)
            yield Update("student", loss, scalars={"loss": loss.detach()})
            return
        turn = context.step % c.ratio == 0
        x = self._samples(batch, context, turn)
        if turn:
            gradient, loss = matched(x, self._time("matching time", context), condition, context)
            told = {"loss": loss.detach(), "matching": gradient.square().mean()}
            yield Update("student", loss, scalars=told)
        else:
            loss = denoising_loss(x, self._time("fake time", context), condition, context)
            yield Update("fake", loss, scalars={"fake_loss": loss.detach()})

    def _map_loss(self, batch: Batch, context: Context) -> Tensor:
        """Stage 1: ``U`` against ``v - (t - r) dU/dt``."""
        c, student, condition = self.config, context.networks["student"], batch.condition
        assert batch.x0 is not None
        t, r = interval_times(context, c.time_mean, c.time_std, c.instant_share, c.whole_share)
        x = flow.interpolate(batch.x0, context.random.normal("noise", batch.shape), t)
        velocity = context.teacher(x, t, condition)
        rows, target = (t > r).nonzero()[:, 0], velocity.clone()
        if len(rows):
            given = x[rows], t[rows], r[rows], velocity[rows], condition[rows], context
            slope = differenced(student, *given, "float32", c.difference_step)
            target[rows] -= (flow.expand(t[rows] - r[rows], x) * slope).to(x)
        else:
            # Sharded weights are gathered in a call: every process makes as many, this uncounted.
            with torch.no_grad():
                average_velocity(context.modules["student"], x[:1], t[:1], r[:1], condition[:1])
        error = average_velocity(student, x, t, r, condition) - target
        return adaptive_loss(error, 1.0, c.weight_floor, row_weight("noise", t, r))

    def _samples(self, batch: Batch, context: Context, gradient: bool) -> Tensor:
        """Ends of the student's own rollouts."""
        c = self.config
        times = flow.time_grid(c.steps, c.step_shift)
        chosen = context.random.shared_integer("chosen", c.steps)
        noise = context.random.normal("noise", batch.shape)
        with torch.set_grad_enabled(gradient):
            return rollout(context.networks["student"], noise, times, chosen, batch.condition)

    def _time(self, name: str, context: Context) -> Tensor:
        return flow.warp(context.random.uniform(name), self.config.matching_shift)
