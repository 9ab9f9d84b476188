"""DMD2 (arXiv 2405.14867): distribution matching with an online fake score, optionally with a GAN.

A student without the GAN head is named ``dmd2-nogan`` in tables.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.pairs import PairBuffer, buffer_for
from torch import Tensor, nn
from torch.nn.functional import softplus

from piflow_bench.api import (
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
)


@dataclass(frozen=True)
class Config:
    """Settings of DMD2; defaults follow the ImageNet-64 recipe in flow-matching terms."""

    gan: bool = True  # discriminator head on the fake-score network's features
    ratio: int = 5  # fake-score updates per generator update (TTUR)
    time_law: str = (
        "karras"  # karras | uniform | logit-normal: of the noise level in the DM gradient
    )
    fake_time_law: str = "uniform"  # of the fake score's own training
    time_low: float = 0.02  # quantiles between which the law is cut
    time_high: float = 0.98
    step_shift: float = 1.0  # time warp of the multi-step grid
    fake_knows_step: bool = False  # the fake score sees which step it models (not the paper)
    generator_gan_weight: float = 3e-3
    fake_gan_weight: float = 1e-2
    regression_weight: float = 0.0  # DMD v1's regression on pairs
    pairs: int = 2048  # for the regression
    pair_steps: int = 16
    lr: float = 2e-6
    fake_lr: float = 2e-6
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    schedule: str = "constant"

    def __post_init__(self) -> None:
        for name in ("time_law", "fake_time_law"):
            if getattr(self, name) not in ("karras", "uniform", "logit-normal"):
                raise ValueError(
                    f"{name}={getattr(self, name)}: must be karras, uniform or logit-normal"
                )
        if self.ratio < 1:
            raise ValueError(f"ratio={self.ratio}: must be at least 1")


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


class FakeScore(nn.Module):
    """Velocity network of the student's samples, with a discriminator on its features.

    The paper's models the mixture of all steps' estimates, so that only the mixture is matched to
    the teacher: in short trainings the last step makes up for what the first ones lack. With
    ``knows_step`` the time at which the student was evaluated is a second time input.
    """

    def __init__(self, network: Any, gan: bool, knows_step: bool) -> None:
        super().__init__()
        self.network, self.knows_step = network, knows_step
        if knows_step:
            network.add_duration()
        dim = network.dim
        self.head = (
            nn.ModuleList([nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Linear(dim, 1)])
            if gan
            else None
        )

    def forward(
        self, x: Tensor, t: Tensor, condition: Condition, step: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Velocity ``(B, *sample)`` and logits ``(B,)`` (None without the GAN).

        Args:
            x: noised samples.
            t: their noise levels ``(B,)``.
            condition: their conditions.
            step: times ``(B,)`` of the student's evaluations that made the samples.
        """
        hidden, embedding = self.network.trunk(x, t, condition, step if self.knows_step else None)
        velocity = self.network.readout(self.network, hidden, embedding)
        if self.head is None:
            return velocity, None
        inner, norm, out = self.head
        return velocity, out(nn.functional.silu(norm(inner(hidden)))).mean((1, 2))


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
    """DMD2, with or without its GAN."""

    Config = Config
    facts = Facts(
        family="distribution matching",
        needs_data=True,
        auxiliary=("fake_score",),
        stochastic=True,
        paper="arXiv:2405.14867",
        version=1,
    )

    def facts_for(self) -> Facts:
        """Real data serves the discriminator alone."""
        c = self.config
        return replace(self.facts, needs_data=c.gan, needs_pairs=c.regression_weight > 0)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Generator and fake score, both from the teacher."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            fake = FakeScore(copy.deepcopy(teacher.network), c.gan, c.fake_knows_step)
            fake.requires_grad_(True).train()
        modules: dict[str, nn.Module] = {"student": network, "fake_score": fake}
        if c.regression_weight > 0:
            modules["pairs"] = buffer_for(c.pairs, replace(spec, train_nfe=1))
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

        t = self._time("fake time", c.fake_time_law, context)
        noise = context.random.normal("fake noise", batch.shape)
        velocity, logits = context.networks["fake_score"](
            flow.interpolate(x, noise, t), t, condition, step
        )
        denoising = (velocity - (noise - x)).square().mean()
        loss, scalars = denoising, {"fake_loss": denoising.detach()}
        if c.gan:
            assert batch.x0 is not None
            real_noise = context.random.normal("real noise", batch.shape)
            _, real_logits = context.networks["fake_score"](
                flow.interpolate(batch.x0, real_noise, t), t, condition, step
            )
            adversarial = softplus(logits).mean() + softplus(-real_logits).mean()
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
        t = self._time("matching time", c.time_law, context)
        noisy = flow.interpolate(x, context.random.normal("matching noise", batch.shape), t)
        with torch.no_grad():
            teacher_x0 = flow.x0_from_velocity(noisy, context.teacher(noisy, t, condition), t)
            fake_velocity, _ = context.networks["fake_score"](noisy, t, condition, step)
            fake_x0 = flow.x0_from_velocity(noisy, fake_velocity, t)
            gradient = matching_gradient(x, teacher_x0, fake_x0)
        loss = matching_loss(x, gradient)
        scalars = {"loss": gradient.square().mean()}
        if c.gan:
            _, logits = context.frozen("fake_score")(noisy, t, condition, step)
            adversarial = softplus(-logits).mean()
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

    def _time(self, name: str, law: str, context: Context) -> Tensor:
        c = self.config
        quantile = c.time_low + (c.time_high - c.time_low) * context.random.uniform(name)
        return noise_time(law, quantile)
