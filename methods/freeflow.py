"""FreeFlow (arXiv 2511.19428): the teacher's flow map from noise alone, without any data.

``f(eps, delta) = eps - delta F(eps, delta)`` is the state at time 1 - delta. Two parts are trained:

* prediction: ``F = u_T(f, 1 - delta) - delta dF/d delta``, which holds of the exact flow map. The
  teacher is asked at the student's own states, so errors of small delta are carried to large ones;
* correction: the velocity that noise takes to noised samples of f(eps, 1), learned online, is
  brought to the teacher's: distribution matching, as DMD's.

The objective is read from notes of the paper, not from its code, which is not published: delta is
uniform, the share of rows that are all noise in the correction is ours, and so is what its scale is
taken of, the prediction's weighted error. The parts take turns over steps, not over rows, so that
a step's answer does not depend on how its batch is divided. delta is the network's second time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from piflow_methods.parts.turns import turn
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
    SampleRandom,
    Spec,
    Student,
    Teacher,
    Update,
    between,
    cite,
    flow,
    log_between,
    setting,
)

FLOOR = 1e-6


@dataclass(frozen=True)
class Config:
    """Settings of FreeFlow."""

    # of the steps; the others correct
    prediction_share: float = setting(0.75, least=0, most=1, search=between(0.4, 0.9))
    power: float = setting(1.0, least=0)  # of a row's squared error, by which it is divided
    weight_floor: float = setting(1e-3, above=0)  # added to it
    # times of the correction are logit-normal, leaning to noise
    time_mean: float = setting(0.8, search=between(-0.4, 1.2))
    time_std: float = setting(1.0, above=0)
    noise_share: float = setting(0.1, least=0, most=1)  # of its rows, those at time 1
    decay: float = setting(0.99, least=0, below=1)  # of the parts' running sizes
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    fake_lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.99, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


@dataclass
class NoiseMap(Student):
    """One step from noise: ``eps - F(eps, 1)``."""

    network: Any

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in one evaluation."""
        one = torch.ones(len(noise)).to(noise)
        return noise - self.network(noise, one, condition, duration=one)


class Sizes(nn.Module):
    """Running root mean squares of the two parts' directions, of the steps before.

    Every row of a step sees the same, and all processes' rows go into the next.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("squares", torch.ones(2))
        self.register_buffer("seen", torch.zeros(2))
        self._new: list[Tensor] = []

    def add(self, part: int, direction: Tensor, context: Context) -> None:
        """Take in the rows of a direction ``(B, *sample)`` of part 0 or 1."""
        self._new.append(direction.detach().flatten(1).square().mean(1))
        if context.last:
            mean = context.gather(torch.cat(self._new)).mean().to(self.squares)
            first = self.seen[part] == 0
            kept = torch.where(first, mean, self.decay * self.squares[part])
            self.squares[part] = torch.where(first, kept, kept + (1 - self.decay) * mean)
            self.seen[part] = 1
            self._new = []

    def ratio(self) -> Tensor:
        """The first part's size over the second's; 1 until both are known."""
        known = self.seen.min()
        return torch.where(
            known > 0, (self.squares[0] / (self.squares[1] + FLOOR)).sqrt(), known + 1
        )


class FreeFlow(Method):
    """FreeFlow (arXiv 2511.19428): a flow map of the teacher from noise alone.

    The student learns the flow map at its own states, and its samples' noised velocity is
    brought to the teacher's: no data are needed, and none are drawn from.
    """

    Config = Config
    facts = Facts(
        family="flow map",
        jvp="exact",
        auxiliary=("fake_score",),
        nfes=(1,),
        backbone=("duration",),
        target="between the guided ODE's end and where noised samples have its score",
        paper="arXiv:2511.19428",
        citation=cite(
            "tong2025freeflow",
            "Tong, Shangyuan and Ma, Nanye and Xie, Saining and Jaakkola, Tommi",
            "Flow Map Distillation Without Data",
            "2511.19428",
        ),
        fidelity="our version: the code is unpublished; the law of delta, the share of pure noise "
        "and the scale of the correction are ours",
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's network with a second time, and one for the velocity of noising."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network)
        network.add_duration()
        network.requires_grad_(True).train()
        fake = copy.deepcopy(teacher.network).requires_grad_(True).train()
        betas = (c.beta1, c.beta2)
        return Built(
            student=NoiseMap(network),
            modules={"student": network, "fake_score": fake, "sizes": Sizes(c.decay)},
            optimizers={
                "student": Optimizer(("student",), c.lr, betas, 0.0, c.schedule),
                "fake": Optimizer(("fake_score",), c.fake_lr, betas, 0.0, c.schedule),
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Prediction or correction of the student, and an update of the noising velocity."""
        c, student, condition = self.config, context.networks["student"], batch.condition
        predicts = turn(context.step) < c.prediction_share
        noise = context.random.normal("noise", batch.shape)
        if predicts:
            yield self._prediction(noise, condition, context)
        one = torch.ones(len(noise)).to(noise)
        with torch.set_grad_enabled(not predicts):
            velocity = student(noise, one, condition, duration=one)
        if not predicts:
            yield self._correction(noise, velocity, condition, context)
        x = (noise - velocity).detach()

        t, fresh = context.random.uniform("fake time"), context.random.normal("fake", batch.shape)
        found = context.networks["fake_score"](flow.interpolate(x, fresh, t), t, condition)
        loss = (found - (fresh - x)).square().mean()
        yield Update("fake", loss, scalars={"fake_loss": loss.detach()})

    def _prediction(self, noise: Tensor, condition: Condition, context: Context) -> Update:
        c, student = self.config, context.networks["student"]
        delta = context.random.uniform("delta")
        one = torch.ones_like(delta)

        def average(delta: Tensor) -> Tensor:
            return student(noise, one, condition, duration=delta)

        value, slope = context.jvp(average, (delta,), (torch.ones_like(delta),))
        state = noise - flow.expand(delta, noise) * value.to(noise)
        target = context.teacher(state, 1 - delta, condition)
        target = target - flow.expand(delta, noise) * slope.to(noise)
        error = student(noise, one, condition, duration=delta) - target
        squared = error.flatten(1).square().mean(1)
        weight = 1 / (squared.detach() + c.weight_floor) ** c.power
        sizes = context.modules["sizes"]
        assert isinstance(sizes, Sizes)
        sizes.add(0, flow.expand(weight, error) * error, context)
        return Update(
            "student", (weight * squared).mean(), scalars={"loss": squared.detach().mean()}
        )

    def _correction(
        self, noise: Tensor, velocity: Tensor, condition: Condition, context: Context
    ) -> Update:
        c, random = self.config, context.random
        t = (c.time_mean + c.time_std * random.normal("correction time")).sigmoid()
        t = torch.where(random.uniform("all noise") < c.noise_share, torch.ones_like(t), t)
        fresh = random.normal("correction noise", noise.shape[1:])
        sizes = context.modules["sizes"]
        assert isinstance(sizes, Sizes)
        with torch.no_grad():
            noisy = flow.interpolate(noise - velocity, fresh, t)
            apart = context.networks["fake_score"](noisy, t, condition) - context.teacher(
                noisy, t, condition
            )
            scale = sizes.ratio().to(apart)
        sizes.add(1, apart, context)
        # Its gradient in F is twice the direction over the number of elements, as a square's is.
        loss = 2 * (velocity * (scale * apart)).mean()
        return Update("student", loss, scalars={"correction": apart.square().mean()})
