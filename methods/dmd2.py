"""DMD2 (arXiv 2405.14867): distribution matching with an online fake score, optionally with a GAN.

Its optimum is where the noised samples' score equals the guided teacher's field on average over
times. With guidance w != 1 that is not where the guided ODE ends, to which imitation is measured:
no training removes that distance. The GAN pulls to the data instead.

A student without the GAN is named ``dmd2-nogan`` in tables.

What later papers change is one setting each, by default as in DMD2:

``guidance_time=below``: guidance at noise levels below the trained step's (Decoupled-DMD,
    arXiv 2511.22677, its "hybrid" schedules; with ``time_law=uniform time_low=0 time_high=1``).
``guidance_below``: guidance at low noise levels alone (1.x-Distill, arXiv 2604.04018).
``projection``: without what may be the fake score's error (PDMD, arXiv 2609.35768).
``first_step_weight``: the first step is regressed, the others matched along the ODE (DP-DMD,
    arXiv 2602.03139; here one of them a step, chosen at random, as DMD2 does).
``longest``: schedules of random lengths and times (of CDM, arXiv 2605.06376; not its second term).
``steps``: one training of so many steps, whose student is asked for more or fewer, too.
``divergence``: weights of an f-divergence (f-distill, arXiv 2502.15681).
``regression_weight``: DMD's own regression on pairs (arXiv 2311.18828; squared error, not LPIPS).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from piflow_methods.parts.fake_score import FakeScore, denoising_loss
from piflow_methods.parts.matching import (
    DIVERGENCES,
    RatioWeights,
    below,
    decoupled_x0,
    matching_gradient,
    matching_loss,
    projected,
)
from piflow_methods.parts.noise_times import TIME_LAWS, noise_time
from piflow_methods.parts.pairs import PairBuffer, buffer_for
from piflow_methods.parts.renoising import RenoisingStudent, simulated
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
    """Settings of DMD2; defaults follow the ImageNet-64 recipe in flow-matching terms."""

    gan: bool = True  # discriminator on the fake-score network's features
    # share of the network's blocks that the discriminator looks through
    discriminator_depth: float = setting(0.5, above=0, most=1)
    # fake-score updates per generator update (TTUR)
    ratio: int = setting(5, least=1, search=among(1, 2, 5))
    # of the time in the DM gradient
    time_law: str = setting(
        "karras", choices=TIME_LAWS, search=among("karras", "logit-normal", "uniform")
    )
    time_low: float = setting(0.02, least=0, most=1)  # quantiles between which it is cut
    time_high: float = setting(0.98, least=0, most=1)
    # where fake score and GAN are trained; None: as time_law
    fake_time_law: str | None = setting(None, choices=TIME_LAWS)
    fake_time_low: float = setting(0.0, least=0, most=1)
    fake_time_high: float = setting(1.0, least=0, most=1)
    step_shift: float = setting(1.0, above=0)  # time warp of the multi-step grid
    fake_knows_step: bool = False  # the fake score sees which step it models (not the paper)
    generator_gan_weight: float = setting(
        3e-3, least=0, search=log_between(3e-4, 3e-2, needs="gan")
    )
    fake_gan_weight: float = setting(1e-2, least=0)
    regression_weight: float = setting(0.0, least=0)  # DMD v1's regression on pairs
    pairs: int = setting(2048, least=1)  # for the regression: pairs held at once
    pair_share: float = setting(0.1, above=0, below=1)  # of the compute, for making them
    pair_steps: int = setting(16, least=1)
    # where the teacher's guidance is asked: at the matching time, or below the trained step's
    guidance_time: str = setting("matching", choices=("matching", "below"), added=True)
    guidance_below: float = setting(1.0, least=0, most=1, added=True)  # guidance holds up to it
    projection: bool = setting(False, added=True)
    divergence: str = setting("reverse-kl", choices=tuple(DIVERGENCES), added=True)
    first_step_weight: float = setting(0.0, least=0, added=True)  # of the first step's regression
    # to where the teacher goes in so many of first_grid steps
    first_steps: int = setting(5, least=1, added=True)
    first_grid: int = setting(30, least=1, added=True)
    # of the path in training, whose student serves every NFE; None: a training for each
    steps: int | None = setting(None, least=1, added=True)
    # schedules in training have 1 to so many steps; None: those of sampling
    longest: int | None = setting(None, least=1, added=True)
    inner_low: float = setting(0.25, least=0, most=1, added=True)  # their times after the first
    inner_high: float = setting(0.95, least=0, most=1, added=True)
    lr: float = setting(2e-6, least=0, search=log_between(2e-7, 2e-5))
    fake_lr: float = setting(2e-6, least=0, search=log_between(2e-7, 2e-5))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    weight_decay: float = setting(0.01, least=0)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.divergence != "reverse-kl" and not self.gan:
            raise ValueError(
                f"divergence={self.divergence}: its ratios are the GAN's; set gan=true"
            )
        if self.first_steps > self.first_grid:
            raise ValueError(
                f"first_steps={self.first_steps}: at most first_grid, {self.first_grid}"
            )
        if self.longest and self.first_step_weight:
            raise ValueError("longest: has no first step of its own; set first_step_weight=0")
        if self.longest and self.steps:
            raise ValueError("longest: schedules are of other lengths; leave out steps")
        for name in ("time", "fake_time", "inner"):
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


def first_velocity(
    teacher: Teacher, noise: Tensor, condition: Condition, steps: int, grid: int
) -> Tensor:
    """``(eps - z) / (steps / grid)``, z the teacher's state after ``steps`` of ``grid`` steps."""
    times = flow.time_grid(grid)[: steps + 1]
    z = flow.euler(lambda x, t: teacher(x, t, condition), noise, times)
    return (noise - z) * (grid / steps)


class DMD2(Method):
    """DMD2 (arXiv 2405.14867): distribution matching by an online fake score, with a GAN or not.

    Samples move along the difference of the teacher's score and that of a network which is
    trained on them meanwhile; between steps they are noised anew.
    """

    Config = Config
    facts = Facts(
        family="distribution matching",
        needs_data=True,
        auxiliary=("fake_score",),
        stochastic=True,
        target="where noised samples have the guided teacher's score: its ODE's end if w = 1",
        paper="arXiv:2405.14867",
        citation=cite(
            "yin2024dmd2",
            'Yin, Tianwei and Gharbi, Micha{\\"e}l and Park, Taesung and Zhang, Richard and '
            "Shechtman, Eli and Durand, Fredo and Freeman, William T.",
            "Improved Distribution Matching Distillation for Fast Image Synthesis",
            "2405.14867",
        ),
        fidelity="after the official code; labels of the generated batch are the real batch's, the "
        "student starts at t = 1, averaged weights are evaluated, times are of the flow",
        version=2,
    )

    def facts_for(self) -> Facts:
        """Real data serves the discriminator alone."""
        c = self.config
        target = self.facts.target + ("; the GAN's pull is to the data" if c.gan else "")
        needs = ("features",) * c.gan + ("duration",) * c.fake_knows_step
        return replace(
            self.facts,
            needs_data=c.gan,
            elastic=c.steps is not None,
            target=target,
            backbone=needs,
            stochastic=not c.first_step_weight,
        )

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
        if c.divergence != "reverse-kl":
            modules["ratios"] = RatioWeights(c.divergence)
        self.nfe = c.steps or spec.train_nfe or 1
        betas = (c.beta1, c.beta2)
        return Built(
            student=RenoisingStudent(network, c.step_shift, fresh=not c.first_step_weight),
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
        denoising = denoising_loss(x, t, condition, context, step)
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

        Where the first step is regressed, a later one is chosen, if there is any.
        """
        c = self.config
        times = self.schedule(context)
        first = 1 if c.first_step_weight and len(times) > 1 else 0
        chosen = first + context.random.shared_integer("simulated steps", len(times) - first)
        fresh = not c.first_step_weight
        return simulated(context.networks["student"], times, chosen, batch, context, fresh)

    def schedule(self, context: Context) -> Tensor:
        """Times of the student's steps, from 1 downwards, without the end."""
        c = self.config
        if c.longest is None:
            return flow.time_grid(self.nfe, c.step_shift)[:-1]
        fine = 2**20
        length = 1 + context.random.shared_integer("schedule length", c.longest)
        draws = [context.random.shared_integer(f"schedule/{i}", fine) for i in range(length - 1)]
        inner = torch.tensor(sorted(draws, reverse=True)) / fine
        return torch.cat([torch.ones(1), c.inner_low + (c.inner_high - c.inner_low) * inner])

    def _generator_update(self, x: Tensor, step: Tensor, batch: Batch, context: Context) -> Update:
        c, condition = self.config, batch.condition
        t = c.matching_time(context.random.uniform("matching time"))
        noisy = flow.interpolate(x, context.random.normal("matching noise", batch.shape), t)
        with torch.no_grad():
            teacher_x0 = self._teacher_x0(x, noisy, t, step, batch, context)
            fake_velocity = context.networks["fake_score"](noisy, t, condition, step)
            fake_x0 = flow.x0_from_velocity(noisy, fake_velocity, t)
            gradient = matching_gradient(x, teacher_x0, fake_x0)
            if c.projection:
                gradient = projected(gradient, fake_x0 - x)
            if c.divergence != "reverse-kl":
                weights = context.modules["ratios"]
                assert isinstance(weights, RatioWeights)
                logits = context.networks["fake_score"](noisy, t, condition, step, judge=True)
                gradient = gradient * flow.expand(weights(logits, t, context), gradient)
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
            regression = self._pairs_loss(batch, context)
            loss = loss + c.regression_weight * regression
            scalars["regression_loss"] = regression.detach()
        if c.first_step_weight:
            regression = self._first_step_loss(batch, context)
            loss = loss + c.first_step_weight * regression
            scalars["first_step_loss"] = regression.detach()
        return Update("student", loss, scalars=scalars)

    def _teacher_x0(
        self, x: Tensor, noisy: Tensor, t: Tensor, step: Tensor, batch: Batch, context: Context
    ) -> Tensor:
        """The teacher's estimate of the data of samples x noised to t, by the switches."""
        c, condition = self.config, batch.condition
        teacher = below(context.teacher, c.guidance_below)
        if c.guidance_time == "matching":
            return flow.x0_from_velocity(noisy, teacher(noisy, t, condition), t)
        at = step * context.random.uniform("guidance time")
        noise = context.random.normal("guidance noise", batch.shape)
        return decoupled_x0(teacher, noisy, t, flow.interpolate(x, noise, at), at, condition)

    def _pairs_loss(self, batch: Batch, context: Context) -> Tensor:
        """DMD's regression: the one-step estimate of a noise against the teacher's end of it."""
        buffer = context.modules["pairs"]
        assert isinstance(buffer, PairBuffer)
        states, paired = buffer.draw(batch, context, self.config.pair_steps)
        noise, end = states[:, 0], states[:, -1]
        one = torch.ones(len(noise)).to(noise)
        prediction = noise - context.networks["student"](noise, one, paired)
        return (prediction - end).square().mean()

    def _first_step_loss(self, batch: Batch, context: Context) -> Tensor:
        """DP-DMD's regression: the first velocity against that to where the teacher went."""
        c, noise = self.config, context.random.normal("first noise", batch.shape)
        target = first_velocity(
            context.teacher, noise, batch.condition, c.first_steps, c.first_grid
        )
        one = torch.ones(len(noise)).to(noise)
        return (context.networks["student"](noise, one, batch.condition) - target).square().mean()

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
