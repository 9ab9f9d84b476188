"""TwinFlow (arXiv 2512.05150): one network is any-step student, fake score and adversary.

``F(x, t, s)`` is the average velocity from t to s. At negative times it learns the field of the
student's own samples, so that distribution matching needs no second network. Three parts:

* base: ``F (t - s)`` equals a short step along the velocity and the running average's way from
  there to s in two steps (RCGM), its residual cut; and ``F(x, t, t)`` the velocity;
* adversary: ``F(x_f at t, -t, -t)`` learns the velocity of noising one-step samples x_f;
* rectification: one-step samples move along ``F(., -t, -t) - F(., t, t)``, cut.

x_f is noised afresh, as in the published training of large models: with the noise that it came of,
as in the published tutorial, its velocities are those of a straightened flow, of other marginals
than the ones that rectification compares, and samples of the right distribution would move.

s is the network's second time, as t - s. Over several steps the published sampler estimates the
data by ``F(x, t, 0)`` and renoises; the map's own steps are the other style.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.consistency import Average
from piflow_methods.parts.renoising import WholeWayStudent
from piflow_methods.parts.stepping import FlowMapStudent, average_velocity
from piflow_methods.parts.turns import turn
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
    between,
    cite,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of TwinFlow."""

    base_share: float = setting(0.5, least=0, most=1)  # of the steps
    # the others rectify
    adversary_share: float = setting(0.25, least=0, most=1, search=between(0.1, 0.4))
    # in t, along the velocity
    step: float = setting(0.01, above=0, below=1, search=log_between(0.003, 0.1))
    average_steps: int = setting(2, least=1)  # of the running average from there to s
    cut: float = setting(1.0, above=0)  # of elements of the residual, and of the rectification's
    style: str = setting("few", choices=("few", "any"))  # several steps renoise | follow the map
    decay: float = setting(0.99, least=0, below=1)  # of the running average
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.99, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.base_share + self.adversary_share > 1:
            raise ValueError(
                f"adversary_share={self.adversary_share}: with base_share, {self.base_share}, at "
                "most 1"
            )


class TwinFlow(Method):
    """TwinFlow (arXiv 2512.05150): any-step flow map that matches distributions by itself.

    Negative times of the same network hold the field of its own samples, which takes the place
    of a second one.
    """

    Config = Config
    facts = Facts(
        family="flow map, distribution matching",
        needs_data=True,
        elastic=True,
        auxiliary=("average",),
        backbone=("duration",),
        target="between the guided ODE's end and where noised samples have its score",
        paper="arXiv:2512.05150",
        citation=cite(
            "cheng2025twinflow",
            "Cheng, Zhenglin and Sun, Peng and Li, Jianguo and Lin, Tao",
            "{TwinFlow}: Realizing One-step Generation on Large Models with Self-adversarial Flows",
            "2512.05150",
        ),
        stochastic=True,
        fidelity="after the official code, without its weights of the losses; the teacher's guided "
        "velocity stands for the data's, the parts take turns over steps, not rows; evenly spaced "
        "times, where its samplers list others (0.999 and 0.6 for two)",
        version=2,
    )

    def facts_for(self) -> Facts:
        """Only renoising draws noise."""
        return replace(self.facts, stochastic=self.config.style == "few")

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's network with a second time, and its running average."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network)
        network.add_duration()
        network.requires_grad_(True).train()
        few = c.style == "few"
        return Built(
            student=WholeWayStudent(network, shift=1.0) if few else FlowMapStudent(network),
            modules={"student": network, "average": Average(network, c.decay)},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update, of the part whose turn it is."""
        c = self.config
        place = turn(context.step)
        if place < c.base_share:
            update = self._base(batch, context)
        elif place < c.base_share + c.adversary_share:
            update = self._adversary(batch, context)
        else:
            update = self._rectification(batch, context)
        average = context.modules["average"]
        assert isinstance(average, Average)
        average.follow(context.modules["student"], context)
        yield update

    def _base(self, batch: Batch, context: Context) -> Update:
        random, condition = context.random, batch.condition
        assert batch.x0 is not None
        t = random.uniform("time")
        s = t * random.uniform("end")
        x = flow.interpolate(batch.x0, random.normal("noise", batch.shape), t)
        velocity = context.teacher(x, t, condition)
        student = context.networks["student"]
        found = average_velocity(student, x, t, s, condition)
        loss = self._residual_loss(found, x, t, s, velocity, condition, context)
        instant = (average_velocity(student, x, t, t, condition) - velocity).square().mean()
        scalars = {"loss": loss.detach(), "instant": instant.detach()}
        return Update("student", loss + instant, scalars=scalars)

    def _residual_loss(
        self,
        found: Tensor,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        velocity: Tensor,
        condition: Condition,
        context: Context,
    ) -> Tensor:
        """The squared error of ``F(x, t, s)`` to itself less the cut residual of its identity."""
        c = self.config
        with torch.no_grad():
            # A hair above 0, where the interval is nothing: its residual is the velocity's.
            q = torch.minimum(torch.full_like(t, c.step), t - s).clamp(min=1e-6)
            state, at = x - flow.expand(q, x) * velocity, t - q
            way = torch.zeros_like(x)
            for i in range(c.average_steps):
                to = at + (s - at) / (c.average_steps - i)
                u = average_velocity(context.networks["average"], state - way, at, to, condition)
                way, at = way + flow.expand(at - to, x) * u, to
            residual = (flow.expand(t - s, x) * found - way) / flow.expand(q, x) - velocity
            target = found - residual.clamp(-c.cut, c.cut)
        return (found - target).square().mean()

    def _samples(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """Noise, and the average velocity from it to samples."""
        noise = context.random.normal("noise", batch.shape)
        one = torch.ones(len(noise)).to(noise)
        student = context.networks["student"]
        return noise, average_velocity(student, noise, one, 0 * one, batch.condition)

    def _adversary(self, batch: Batch, context: Context) -> Update:
        with torch.no_grad():
            noise, velocity = self._samples(batch, context)
            x = noise - velocity
        t = context.random.uniform("time")
        fresh = context.random.normal("fresh noise", batch.shape)
        noisy = flow.interpolate(x, fresh, t)
        found = average_velocity(context.networks["student"], noisy, -t, -t, batch.condition)
        loss = (found - (fresh - x)).square().mean()
        return Update("student", loss, scalars={"fake_loss": loss.detach()})

    def _rectification(self, batch: Batch, context: Context) -> Update:
        condition, student = batch.condition, context.networks["student"]
        noise, velocity = self._samples(batch, context)
        t = context.random.uniform("time")
        with torch.no_grad():
            fresh = context.random.normal("fresh noise", batch.shape)
            noisy = flow.interpolate(noise - velocity, fresh, t)
            fake = average_velocity(student, noisy, -t, -t, condition)
            apart = fake - average_velocity(student, noisy, t, t, condition)
            target = velocity - apart.clamp(-self.config.cut, self.config.cut)
        loss = (velocity - target).square().mean()
        one = torch.ones_like(t)
        at_noise = context.teacher(noise, one, condition)
        base = self._residual_loss(velocity, noise, one, 0 * one, at_noise, condition, context)
        scalars = {"matching_loss": loss.detach(), "loss": base.detach()}
        return Update("student", loss + base, scalars=scalars)
