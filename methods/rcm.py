"""rCM (arXiv 2510.08431): continuous-time consistency, and distribution matching beside it.

The consistency part is sCM's along the teacher's flow; what it blurs where its derivative is not
learned well, matching corrects: it moves the student's own samples, of a random number of steps,
along the difference of the teacher's estimate and that of a network trained on them (DMD2's).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from piflow_methods.parts.continuous import consistency_error
from piflow_methods.parts.fake_score import denoising_loss
from piflow_methods.parts.matching import matched
from piflow_methods.parts.renoising import RenoisingStudent, simulated
from piflow_methods.parts.trigflow import angle, mixture, trig_velocity
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
    """Settings of rCM; defaults are the official code's for text to video."""

    consistency_weight: float = setting(100.0, above=0)
    matching_weight: float = setting(1.0, above=0, search=log_between(0.1, 10.0))
    deviation: float = setting(1.0, above=0)  # of the data
    # log sigma of the consistency part's times is normal, sigma the ratio of noise to data
    log_mean: float = setting(0.7, search=among(-1.0, 0.0, 0.7))
    log_std: float = setting(1.6, above=0)
    # share of the training over which the derivative is ramped up
    tangent_warmup: float = setting(0.025, least=0, most=1, search=among(0.025, 0.25, 1.0))
    matching_start: float = setting(0.025, least=0, below=1)  # share before anything is matched
    tangent_floor: float = setting(0.1, above=0)  # beside the norm that divides the direction
    # of the products in the derivative
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    # steps of which one moves the student, the others train the fake score
    ratio: int = setting(5, least=2, search=among(2, 5))
    longest: int = setting(4, least=1)  # samples have 1 to so many steps
    matching_shift: float = setting(5.0, above=0)  # time warp of the uniform times of matching
    sigma_max: float = setting(80.0, above=0)  # where samples start
    step_shift: float = setting(1.0, above=0)  # time warp of the multi-step grid
    lr: float = setting(2e-6, least=0, search=log_between(2e-7, 2e-5))
    fake_lr: float = setting(4e-7, least=0, search=log_between(4e-8, 4e-6))
    beta1: float = setting(0.0, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    @property
    def start(self) -> float:
        """Noise level at which samples start."""
        return self.sigma_max / (1 + self.sigma_max)


class RCM(Method):
    """rCM (arXiv 2510.08431): sCM's consistency with DMD2's matching as a regulariser.

    Estimates are made consistent along the teacher's flow by their exact derivative, and samples
    of a few steps are moved to where the teacher and a network trained on them agree.
    """

    Config = Config
    facts = Facts(
        family="consistency, distribution matching",
        needs_data=True,
        jvp="exact",
        auxiliary=("fake_score",),
        elastic=True,
        stochastic=True,
        paper="arXiv:2510.08431",
        citation=cite(
            "zheng2025rcm",
            "Zheng, Kaiwen and Wang, Yuji and Ma, Qianli and Chen, Huayu and Zhang, Jintao and "
            "Balaji, Yogesh and Chen, Jianfei and Liu, Ming-Yu and Zhu, Jun and Zhang, Qinsheng",
            "Large Scale Diffusion Distillation via Score-Regularized Continuous-Time Consistency",
            "2510.08431",
        ),
        fidelity="the official code's losses, weights, times and turns; the ramp is a share of the "
        "training, averaged weights are evaluated",
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """Student and fake score, both from the teacher."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        fake = copy.deepcopy(teacher.network).requires_grad_(True).train()
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
        """The student's turn once in ``ratio`` steps, the fake score's in the others.

        Until matching begins every step is the student's.
        """
        c = self.config
        matching = context.progress >= c.matching_start
        if matching and context.step % c.ratio:
            with torch.no_grad():
                x = self._samples(batch, context)
            t = self._time("fake time", context)
            loss = denoising_loss(x, t, batch.condition, context)
            yield Update("fake", loss, scalars={"fake_loss": loss.detach()})
            return
        consistency = self._consistency(batch, context)
        loss, told = c.consistency_weight * consistency, {"consistency": consistency.detach()}
        if matching:
            t = self._time("matching time", context)
            gradient, moved = matched(self._samples(batch, context), t, batch.condition, context)
            loss = loss + c.matching_weight * moved
            told["matching"] = gradient.square().mean()
        yield Update("student", loss, scalars={"loss": loss.detach(), **told})

    def _consistency(self, batch: Batch, context: Context) -> Tensor:
        """sCM's loss on noised data, along the teacher's flow."""
        c, condition = self.config, batch.condition
        assert batch.x0 is not None
        sigma = (c.log_mean + c.log_std * context.random.normal("time")).exp()
        t = sigma / (1 + sigma)
        a = angle(t, c.deviation)
        state = flow.interpolate(batch.x0, context.random.normal("data noise", batch.shape), t)
        x = mixture(state, a, c.deviation)
        moved = trig_velocity(lambda x, t: context.teacher(x, t, condition), x, a, c.deviation)
        error = consistency_error(
            context.networks["student"],
            x,
            a,
            moved,
            condition,
            context,
            deviation=c.deviation,
            warmup=c.tangent_warmup,
            floor=c.tangent_floor,
            precision=c.derivative_precision,
            rooted=True,
        )
        return error.square().mean()

    def _samples(self, batch: Batch, context: Context) -> Tensor:
        """The student's samples in a random number of steps, with gradient in the last one."""
        c = self.config
        steps = 1 + context.random.shared_integer("steps", c.longest)
        times = c.start * flow.time_grid(steps, c.step_shift)[:-1]
        x, _ = simulated(context.networks["student"], times, steps - 1, batch, context)
        return x

    def _time(self, name: str, context: Context) -> Tensor:
        return flow.warp(context.random.uniform(name), self.config.matching_shift)
