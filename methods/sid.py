"""SiD (arXiv 2404.04057): score identity distillation, gradients through both scores.

The Fisher divergence between noised samples of student and teacher, estimated from an online fake
score without any data. Where both scores are equal its gradient is zero, at guidance w = 1 at the
teacher's own distribution.

Several steps are ours: trained and sampled by backward simulation with fresh noise, as DMD2's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from piflow_methods.parts.fake_score import denoising_loss
from piflow_methods.parts.noise_times import TIME_LAWS, noise_time
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
    between,
    cite,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of SiD; defaults are those of its ImageNet-64 recipe."""

    # of the squared difference of the scores
    alpha: float = setting(1.2, least=0, search=between(0.8, 1.2))
    # noise level of the student's first step, which sees noise of that size: sigma 2.5
    start: float = setting(2.5 / 3.5, above=0, most=1)
    time_law: str = setting("karras", choices=TIME_LAWS)  # of the times of the divergence
    time_low: float = setting(0.0, least=0, most=1)  # quantiles between which it is cut
    time_high: float = setting(0.8, least=0, most=1)
    fake_time_law: str = setting("edm", choices=TIME_LAWS)  # of the fake score's training
    step_shift: float = setting(1.0, above=0)  # time warp of the multi-step grid
    # fake-score updates per generator update
    ratio: int = setting(1, least=1, search=among(1, 2, 5))
    loss_scale: float = setting(100.0, above=0)
    lr: float = setting(4e-6, least=0, search=log_between(4e-7, 4e-5))
    fake_lr: float = setting(4e-6, least=0, search=log_between(4e-7, 4e-5))
    beta1: float = setting(0.0, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.time_low >= self.time_high:
            raise ValueError(f"time_low={self.time_low}: must be below time_high={self.time_high}")


def identity_loss(x: Tensor, real: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """``(f_r - f_f) [(f_r - x) - alpha (f_r - f_f)]`` over ``mean|x - f_r|``: SiD, equation 23.

    Args:
        x: samples of the student, with gradient.
        real: the teacher's estimates of them from their noised versions, with gradient to x.
        fake: the fake score's, alike.
        alpha: 1 leaves the part that projects; above it the squared difference counts negatively.
    """
    apart = real - fake
    scale = (x - real).detach().abs().flatten(1).mean(1)
    loss = apart * ((real - x) - alpha * apart) / flow.expand(scale, x)
    return torch.nan_to_num(loss).mean()


class SiD(Method):
    """SiD (arXiv 2404.04057): the Fisher divergence to the teacher, without data.

    Unlike DMD's, the gradient passes through both networks, and no data are needed.
    """

    Config = Config
    facts = Facts(
        family="distribution matching",
        auxiliary=("fake_score",),
        stochastic=True,
        target="where noised samples have the guided teacher's score: its ODE's end if w = 1",
        paper="arXiv:2404.04057",
        citation=cite(
            "zhou2024sid",
            "Zhou, Mingyuan and Zheng, Huangjie and Wang, Zhendong and Yin, Mingzhang and "
            "Huang, Hai",
            "Score identity Distillation: Exponentially Fast Distillation of Pretrained "
            "Diffusion Models for One-Step Generation",
            "2404.04057",
        ),
        fidelity="after the official code; times and weights are of the flow, the fake score "
        "learns velocities without EDM's weights, averaged weights are evaluated, several steps "
        "are trained as DMD2's",
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Generator and fake score, both from the teacher."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        fake = copy.deepcopy(teacher.network).requires_grad_(True).train()
        self.nfe = spec.train_nfe or 1
        betas = (c.beta1, c.beta2)
        return Built(
            student=RenoisingStudent(network, c.step_shift, start=c.start),
            modules={"student": network, "fake_score": fake},
            optimizers={
                "student": Optimizer(("student",), c.lr, betas, 0.0, c.schedule),
                "fake": Optimizer(("fake_score",), c.fake_lr, betas, 0.0, c.schedule),
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """A generator update every ``ratio`` steps; a fake-score update in every step."""
        c, condition = self.config, batch.condition
        update_generator = context.step % c.ratio == 0
        times = c.start * flow.time_grid(self.nfe, c.step_shift)[:-1]
        chosen = context.random.shared_integer("simulated steps", self.nfe)
        with torch.set_grad_enabled(update_generator):
            x, _ = simulated(context.networks["student"], times, chosen, batch, context)
        if update_generator:
            yield self._generator_update(x, batch, context)
        x = x.detach()

        t = noise_time(c.fake_time_law, context.random.uniform("fake time"))
        loss = denoising_loss(x, t, condition, context)
        yield Update("fake", loss, scalars={"fake_loss": loss.detach()})

    def _generator_update(self, x: Tensor, batch: Batch, context: Context) -> Update:
        c, condition = self.config, batch.condition
        quantile = c.time_low + (c.time_high - c.time_low) * context.random.uniform("matching time")
        t = noise_time(c.time_law, quantile)
        noisy = flow.interpolate(x, context.random.normal("matching noise", batch.shape), t)
        real = context.teacher.differentiable()(noisy, t, condition)
        fake = context.frozen("fake_score")(noisy, t, condition)
        estimates = [flow.x0_from_velocity(noisy, u, t) for u in (real, fake)]
        loss = c.loss_scale * identity_loss(x, *estimates, c.alpha)
        apart = (estimates[0] - estimates[1]).detach()
        return Update("student", loss, scalars={"loss": apart.square().mean()})
