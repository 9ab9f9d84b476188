"""DMD2 (arXiv 2405.14867): distribution matching with an online fake score, optionally with a GAN.

Its optimum is where the noised samples' score equals the guided teacher's field on average over
times. With guidance w != 1 that is not where the guided ODE ends, to which imitation is measured:
no training removes that distance. The GAN pulls to the data instead.

Differs from the official code: the labels of the generated batch are the real batch's; the student
starts at t = 1 (sigma 80 there); averaged weights are evaluated; the student is given times of the
flow, not of the EDM schedule. A student without the GAN is named ``dmd2-nogan`` in tables.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.fake_score import FakeScore
from piflow_methods.pairs import PairBuffer, buffer_for
from torch import Tensor, nn
from torch.nn.functional import softplus

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
    flow,
    setting,
)

TIME_LAWS = ("karras", "uniform", "logit-normal")


@dataclass(frozen=True)
class Config:
    """Settings of DMD2; defaults follow the ImageNet-64 recipe in flow-matching terms."""

    gan: bool = True  # discriminator on the fake-score network's features
    # share of the network's blocks that the discriminator looks through
    discriminator_depth: float = setting(0.5, above=0, most=1)
    ratio: int = setting(5, least=1)  # fake-score updates per generator update (TTUR)
    time_law: str = setting("karras", choices=TIME_LAWS)  # of the time in the DM gradient
    time_low: float = setting(0.02, least=0, most=1)  # quantiles between which it is cut
    time_high: float = setting(0.98, least=0, most=1)
    # where fake score and GAN are trained; None: as time_law
    fake_time_law: str | None = setting(None, choices=TIME_LAWS)
    fake_time_low: float = setting(0.0, least=0, most=1)
    fake_time_high: float = setting(1.0, least=0, most=1)
    step_shift: float = setting(1.0, above=0)  # time warp of the multi-step grid
    fake_knows_step: bool = False  # the fake score sees which step it models (not the paper)
    generator_gan_weight: float = setting(3e-3, least=0)
    fake_gan_weight: float = setting(1e-2, least=0)
    regression_weight: float = setting(0.0, least=0)  # DMD v1's regression on pairs
    pairs: int = setting(2048, least=1)  # for the regression: pairs held at once
    pair_share: float = setting(0.1, above=0, below=1)  # of the compute, for making them
    pair_steps: int = setting(16, least=1)
    lr: float = setting(2e-6, least=0)
    fake_lr: float = setting(2e-6, least=0)
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    weight_decay: float = setting(0.01, least=0)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        for name in ("time", "fake_time"):
            low, high = getattr(self, f"{name}_low"), getattr(self, f"{name}_high")
            if low >= high:
                raise ValueError(f"{name}_low={low}: must be below {name}_high={high}")

    def matching_time(self, u: Tensor) -> Tensor:
        """Times ``(B,)`` of the distribution-matching gradient from uniform draws."""
        return noise_time(self.time_law, self.time_low + (self.time_high - self.time_low) * u)

    def fake_time(self, u: Tensor) -> Tensor:
        """Times ``(B,)`` at which fake score and GAN are trained, from uniform draws.

        By default of the matching law over its full range: the generator asks the fake score where
        it was trained.
        """
        low, high = self.fake_time_low, self.fake_time_high
        return noise_time(self.fake_time_law or self.time_law, low + (high - low) * u)


def noise_time(law: str, quantile: Tensor) -> Tensor:
    """Flow times ``(B,)`` at quantiles of a time law.

    karras: the EDM schedule (rho 7, sigma .002 to 80), t = sigma / (1 + sigma); logit-normal:
    mean 0, std 1.
    """
    if law == "uniform":
        return quantile
    if law == "logit-normal":
        return torch.special.ndtri(quantile.double()).float().sigmoid()
    low, high, rho = 0.002, 80.0, 7.0
    sigma = (low ** (1 / rho) + quantile * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    return sigma / (1 + sigma)


def matching_gradient(x: Tensor, teacher_x0: Tensor, fake_x0: Tensor) -> Tensor:
    """The DMD gradient ``(f_fake - f_real) / mean|x - f_real|`` per sample; nan becomes 0."""
    scale = (x - teacher_x0).abs().flatten(1).mean(1)
    return torch.nan_to_num((fake_x0 - teacher_x0) / flow.expand(scale, x))


def matching_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """``1/2 mean |x - sg(x - g)|^2``, whose gradient in x is g over the number of elements."""
    return (x - (x - gradient).detach()).square().mean() / 2


@dataclass
class RenoisingStudent(Student):
    """One-step generation, or estimate-and-renoise over several steps."""

    network: Any
    shift: float

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations, with fresh noise between them."""
        times = flow.time_grid(nfe, self.shift)[:-1]
        x = noise
        for i, t in enumerate(times):
            at = t.expand(len(x)).to(x)
            x0 = flow.x0_from_velocity(x, self.network(x, at, condition), at)
            if i + 1 == nfe:
                return x0
            x = flow.interpolate(x0, random.normal(i, noise.shape[1:]), times[i + 1])
        return x


class DMD2(Method):
    """DMD2 (arXiv 2405.14867): distribution matching by an online fake score, with a GAN or not."""

    Config = Config
    facts = Facts(
        family="distribution matching",
        needs_data=True,
        auxiliary=("fake_score",),
        stochastic=True,
        target="where noised samples have the guided teacher's score: its ODE's end if w = 1",
        paper="arXiv:2405.14867",
        version=2,
    )

    def facts_for(self) -> Facts:
        """Real data serves the discriminator alone."""
        c = self.config
        target = self.facts.target + ("; the GAN's pull is to the data" if c.gan else "")
        needs = ("features",) * c.gan + ("duration",) * c.fake_knows_step
        return replace(self.facts, needs_data=c.gan, target=target, backbone=needs)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Generator and fake score, both from the teacher."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            share = c.discriminator_depth if c.gan else None
            fake = FakeScore(copy.deepcopy(teacher.network), share, c.fake_knows_step)
            fake.requires_grad_(True).train()
        modules: dict[str, nn.Module] = {"student": network, "fake_score": fake}
        if c.regression_weight > 0:
            modules["pairs"] = buffer_for(c.pairs, c.pair_share, replace(spec, train_nfe=1))
        self.nfe = spec.train_nfe or 1
        betas = (c.beta1, c.beta2)
        return Built(
            student=RenoisingStudent(network, c.step_shift),
            modules=modules,
            optimizers={
                "student": Optimizer(("student",), c.lr, betas, c.weight_decay, c.schedule),
                "fake": Optimizer(("fake_score",), c.fake_lr, betas, c.weight_decay, c.schedule),
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """A generator update every ``ratio`` steps; a fake-score update in every step."""
        c, condition = self.config, batch.condition
        update_generator = context.step % c.ratio == 0
        with torch.set_grad_enabled(update_generator):
            x, step = self.generate(batch, context)
        if update_generator:
            yield self._generator_update(x, step, batch, context)
        x = x.detach()

        t = c.fake_time(context.random.uniform("fake time"))
        noise = context.random.normal("fake noise", batch.shape)
        velocity = context.networks["fake_score"](flow.interpolate(x, noise, t), t, condition, step)
        denoising = (velocity - (noise - x)).square().mean()
        loss, scalars = denoising, {"fake_loss": denoising.detach()}
        if c.gan:
            assert batch.x0 is not None
            judge = context.networks["fake_score"]
            adversarial = (
                softplus(self._logits("judged", judge, x, step, batch, context)).mean()
                + softplus(-self._logits("real", judge, batch.x0, step, batch, context)).mean()
            )
            loss = loss + c.fake_gan_weight * adversarial
            scalars["discriminator_loss"] = adversarial.detach()
        yield Update("fake", loss, scalars=scalars)

    def generate(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """The student's estimate at a random step of its own sampling path, and its time ``(B,)``.

        Backward simulation: the steps before it run without gradient.
        """
        student, condition = context.networks["student"], batch.condition
        times = flow.time_grid(self.nfe, self.config.step_shift)[:-1]
        chosen = context.random.shared_integer("simulated steps", self.nfe)
        x = context.random.normal("noise", batch.shape)
        for i in range(chosen + 1):
            at = times[i].expand(len(x)).to(x)
            with torch.set_grad_enabled(torch.is_grad_enabled() and i == chosen):
                x0 = flow.x0_from_velocity(x, student(x, at, condition), at)
            if i < chosen:
                x = flow.interpolate(
                    x0, context.random.normal(f"renoise/{i}", batch.shape), times[i + 1]
                )
        return x0, at

    def _generator_update(self, x: Tensor, step: Tensor, batch: Batch, context: Context) -> Update:
        c, condition = self.config, batch.condition
        t = c.matching_time(context.random.uniform("matching time"))
        noisy = flow.interpolate(x, context.random.normal("matching noise", batch.shape), t)
        with torch.no_grad():
            teacher_x0 = flow.x0_from_velocity(noisy, context.teacher(noisy, t, condition), t)
            fake_velocity = context.networks["fake_score"](noisy, t, condition, step)
            fake_x0 = flow.x0_from_velocity(noisy, fake_velocity, t)
            gradient = matching_gradient(x, teacher_x0, fake_x0)
        loss = matching_loss(x, gradient)
        scalars = {"loss": gradient.square().mean()}
        if c.gan:
            judge = context.frozen("fake_score")
            adversarial = softplus(
                -self._logits("generator", judge, x, step, batch, context)
            ).mean()
            loss = loss + c.generator_gan_weight * adversarial
            scalars["generator_gan_loss"] = adversarial.detach()
        if c.regression_weight:
            buffer = context.modules["pairs"]
            assert isinstance(buffer, PairBuffer)
            states, paired = buffer.draw(batch, context, c.pair_steps)
            noise, end = states[:, 0], states[:, -1]
            one = torch.ones(len(noise)).to(noise)
            prediction = noise - context.networks["student"](noise, one, paired)
            regression = (prediction - end).square().mean()
            loss = loss + c.regression_weight * regression
            scalars["regression_loss"] = regression.detach()
        return Update("student", loss, scalars=scalars)

    def _logits(
        self,
        name: str,
        judge: Callable[..., Tensor],
        x: Tensor,
        step: Tensor,
        batch: Batch,
        context: Context,
    ) -> Tensor:
        """The discriminator's logits ``(B,)`` of samples x with times and noise of their own."""
        t = self.config.fake_time(context.random.uniform(f"{name} time"))
        noisy = flow.interpolate(x, context.random.normal(f"{name} noise", batch.shape), t)
        return judge(noisy, t, batch.condition, step, judge=True)
