"""DOLLAR for images (arXiv 2412.15689): score distillation, consistency, and a latent reward.

Three parts of one loss: samples move along the difference of the teacher's and a fake score
(:mod:`.parts.matching`), estimates of the data agree along the teacher's path
(:mod:`.parts.consistency`), and in the last part of the training a small network that has learnt
what a reward says of samples' pictures pulls them up. The reward itself is asked for numbers alone,
so that neither it nor a decoder is differentiated.

The paper is of videos, and its weights, rates and networks are not published: those here are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.consistency import Average, neighbour, pseudo_huber
from piflow_methods.parts.fake_score import FakeScore, denoising_loss
from piflow_methods.parts.judges import FeatureJudge
from piflow_methods.parts.matching import matching_gradient, matching_loss
from piflow_methods.parts.renoising import RenoisingStudent, simulated
from torch import Tensor

from piflow_bench.api import (
    SCHEDULES,
    Batch,
    Built,
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
    """Settings of DOLLAR."""

    # fake-score updates per generator update
    ratio: int = setting(5, least=1, search=among(1, 2, 5))
    time_low: float = setting(0.02, least=0, most=1)  # of the matching's uniform times
    time_high: float = setting(0.98, least=0, most=1)
    # of estimates that agree along the teacher's path
    consistency_weight: float = setting(1.0, least=0, search=log_between(0.1, 10.0))
    consistency_steps: int = setting(50, least=1)  # the path is so many steps long
    huber: float = setting(0.01, above=0)
    decay: float = setting(0.95, least=0, below=1)  # of the averaged weights that give targets
    # the reward plugin to please, and how much
    reward: str = setting("class-probe")
    reward_weight: float = setting(0.1, least=0, search=log_between(0.01, 1.0))
    # share of the budget from which it pulls, and for how much before its network learns
    reward_start: float = setting(0.5, least=0, most=1)
    reward_ahead: float = setting(0.1, least=0, most=1)
    # shares of the teacher's blocks through which the reward's network looks at samples
    depths: tuple[float, ...] = setting((0.5, 1.0), above=0, most=1)
    lr: float = setting(2e-6, least=0, search=log_between(2e-7, 2e-5))
    fake_lr: float = setting(2e-6, least=0, search=log_between(2e-7, 2e-5))
    reward_lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3, needs="reward_weight"))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    weight_decay: float = setting(0.01, least=0)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.time_low >= self.time_high:
            raise ValueError(f"time_low={self.time_low}: must be below time_high={self.time_high}")
        if not self.depths:
            raise ValueError("depths=[]: the reward's network looks through at least one")
        if self.reward_weight and not self.reward:
            raise ValueError("reward='': name a reward, or set reward_weight=0")


class DOLLAR(Method):
    """DOLLAR for images (arXiv 2412.15689): score distillation, consistency, a latent reward.

    Samples move along the difference of two scores and estimates agree along the teacher's path;
    then a network that has learnt a reward of their pictures pulls them up.
    """

    Config = Config
    facts = Facts(
        family="distribution matching, consistency, reward",
        needs_data=True,
        auxiliary=("average", "fake_score", "latent_reward"),
        backbone=("features",),
        reward="class-probe",
        stochastic=True,
        target="where noised samples have the guided teacher's score, pulled to what the reward "
        "praises",
        paper="arXiv:2412.15689",
        citation=cite(
            "ding2024dollar",
            "Ding, Zihan and Jin, Chi and Liu, Difan and Zheng, Haitian and Singh, Krishna Kumar "
            "and Zhang, Qiang and Kang, Yan and Lin, Zhe and Liu, Yuchen",
            "DOLLAR: Few-Step Video Generation via Distillation and Latent Reward Optimization",
            "2412.15689",
        ),
        fidelity="after the paper's description, of images: weights, rates and the latent network "
        "(heads on the teacher's features) are ours, since there is no code",
    )

    def facts_for(self) -> Facts:
        """Without its weight a part is not there, and asks for nothing."""
        c = self.config
        networks = {"average": c.consistency_weight, "latent_reward": c.reward_weight}
        target = self.facts.target.partition(",")[0]
        return replace(
            self.facts,
            needs_data=bool(c.consistency_weight),
            reward=c.reward if c.reward_weight else "",
            backbone=("features",) if c.reward_weight else (),
            auxiliary=("fake_score", *(name for name, weight in networks.items() if weight)),
            target=f"{target}, pulled to what {c.reward} praises" if c.reward_weight else target,
        )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Generator, its running average, the fake score and the reward's network."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        fake = FakeScore(copy.deepcopy(teacher.network), None, False).requires_grad_(True).train()
        modules: dict[str, Any] = {"student": network, "fake_score": fake}
        if c.consistency_weight:
            modules["average"] = Average(network, c.decay)
        betas = (c.beta1, c.beta2)
        optimizers = {
            "student": Optimizer(("student",), c.lr, betas, c.weight_decay, c.schedule),
            "fake": Optimizer(("fake_score",), c.fake_lr, betas, c.weight_decay, c.schedule),
        }
        if c.reward_weight:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(spec.seed)
                modules["latent_reward"] = FeatureJudge(teacher.network, c.depths).train()
            optimizers["reward"] = Optimizer(("latent_reward",), c.reward_lr, betas)
        self.times = flow.time_grid(spec.train_nfe or 1)[:-1]
        return Built(RenoisingStudent(network, 1.0), modules, optimizers)

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """A generator update every ``ratio`` steps; the other networks learn in every step."""
        c, condition = self.config, batch.condition
        turn = context.step % c.ratio == 0
        chosen = context.random.shared_integer("simulated steps", len(self.times))
        with torch.set_grad_enabled(turn):
            student = context.networks["student"]
            x, step = simulated(student, self.times, chosen, batch, context)
        if turn:
            yield self._generator_update(x, step, batch, context)
        x = x.detach()
        t = context.random.uniform("fake time")
        denoising = denoising_loss(x, t, condition, context, step)
        yield Update("fake", denoising, scalars={"fake_loss": denoising.detach()})
        if c.reward_weight and context.progress >= c.reward_start - c.reward_ahead:
            told = context.reward(x, condition)
            guessed = self._guessed(context.networks["latent_reward"], x, batch)
            error = (guessed - told).square().mean()
            scalars = {"reward": told.mean(), "reward_error": error.detach()}
            yield Update("reward", error, scalars=scalars)

    def _generator_update(self, x: Tensor, step: Tensor, batch: Batch, context: Context) -> Update:
        c, condition = self.config, batch.condition
        t = c.time_low + (c.time_high - c.time_low) * context.random.uniform("matching time")
        noisy = flow.interpolate(x, context.random.normal("matching noise", batch.shape), t)
        with torch.no_grad():
            teacher_x0 = flow.x0_from_velocity(noisy, context.teacher(noisy, t, condition), t)
            fake_velocity = context.networks["fake_score"](noisy, t, condition, step)
            fake_x0 = flow.x0_from_velocity(noisy, fake_velocity, t)
            gradient = matching_gradient(x, teacher_x0, fake_x0)
        loss = matching_loss(x, gradient)
        scalars = {"loss": gradient.square().mean()}
        if c.consistency_weight:
            consistency = self._consistency(batch, context)
            loss = loss + c.consistency_weight * consistency
            scalars["consistency_loss"] = consistency.detach()
            average = context.modules["average"]
            assert isinstance(average, Average)
            average.follow(context.modules["student"], context)
        if c.reward_weight and context.progress >= c.reward_start:
            praise = self._guessed(context.frozen("latent_reward"), x, batch).mean()
            loss = loss - c.reward_weight * praise
            scalars["latent_reward"] = praise.detach()
        return Update("student", loss, scalars=scalars)

    def _consistency(self, batch: Batch, context: Context) -> Tensor:
        """The distance of estimates from the two ends of a step of the teacher."""
        c, condition = self.config, batch.condition
        assert batch.x0 is not None
        end = (context.random.uniform("path time") * c.consistency_steps).ceil().clamp(min=1)
        t = end / c.consistency_steps
        x = flow.interpolate(batch.x0, context.random.normal("path noise", batch.shape), t)
        estimate = flow.x0_from_velocity(x, context.networks["student"](x, t, condition), t)
        with torch.no_grad():
            by = torch.full_like(t, -1 / c.consistency_steps)
            state, there = neighbour(x, context.teacher(x, t, condition), t, by)
            there = there.clamp(min=0)
            velocity = context.networks["average"](state, there, condition)
            target = flow.x0_from_velocity(state, velocity, there)
        return pseudo_huber(estimate - target, c.huber).mean()

    def _guessed(self, network: Any, x: Tensor, batch: Batch) -> Tensor:
        """What the latent network takes the reward of samples to be, ``(B,)``."""
        clean = torch.zeros(len(x)).to(x)
        return network(x, clean, batch.condition).mean(1)
