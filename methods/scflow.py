"""Self-corrected flow distillation (arXiv 2412.16906): consistency, an adversary, and a reflow.

One student of every NFE, from real data: its estimate of the data is made the same along the
teacher's path in both directions, its one-step samples are judged, and its paths are straightened
towards those samples. Weights, windows and decays are of the official code (hao-pt/SCFlow).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.consistency import Average, neighbour, pseudo_huber
from piflow_methods.parts.judges import FeatureJudge, deceiving_loss, judged_loss
from piflow_methods.parts.stepping import EulerStudent
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
    cite,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of self-corrected flow distillation."""

    window: float = setting(0.1, above=0, most=1)  # the longest step between neighbours
    truncated: float = setting(0.1, least=0, most=1)  # below it the target is the data itself
    huber: float = setting(0.01, above=0)
    # of neighbours towards noise
    bidirectional_weight: float = setting(0.1, least=0, search=log_between(0.01, 1.0))
    # of the judge of one-step samples; 0: none
    gan_weight: float = setting(0.1, least=0, search=log_between(0.01, 1.0))
    # of straight paths to one-step samples
    reflow_weight: float = setting(0.1, least=0, search=log_between(0.01, 1.0))
    warmup: int = setting(0, least=0)  # steps without these three
    # shares of the teacher's blocks that the judge looks through
    depths: tuple[float, ...] = setting((0.25, 0.5, 0.75), above=0, most=1)
    decay: float = setting(0.9, least=0, below=1)  # of the averaged weights that give targets
    lr: float = setting(2e-5, least=0, search=log_between(2e-6, 2e-4))
    judge_lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3, needs="gan_weight"))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.99, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if not self.depths:
            raise ValueError("depths=[]: the judge looks through at least one")


class SCFlow(Method):
    """Self-corrected flow distillation (arXiv 2412.16906), one student of every NFE.

    Its estimates of the data agree along a path, its one-step samples are judged, and its paths
    are straightened towards them.
    """

    Config = Config
    facts = Facts(
        family="consistency, adversarial",
        needs_data=True,
        elastic=True,
        auxiliary=("average", "judge"),
        target="between the guided teacher's consistency and the data, by the judge",
        paper="arXiv:2412.16906",
        citation=cite(
            "dao2024scflow",
            "Dao, Quan and Phung, Hao and Dao, Trung and Metaxas, Dimitris and Tran, Anh",
            "Self-Corrected Flow Distillation for Consistent One-Step and Few-Step "
            "Text-to-Image Generation",
            "2412.16906",
        ),
        fidelity="after the official code; the judge looks through the frozen teacher, without R1, "
        "and the parts begin together",
    )

    def facts_for(self) -> Facts:
        """The judge alone needs features."""
        gan = self.config.gan_weight > 0
        auxiliary = ("average", "judge") if gan else ("average",)
        return replace(self.facts, auxiliary=auxiliary, backbone=("features",) * gan)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The student, its running average, and the judge."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        modules: dict[str, Any] = {"student": network, "average": Average(network, c.decay)}
        betas = (c.beta1, c.beta2)
        optimizers = {"student": Optimizer(("student",), c.lr, betas, 0.0, c.schedule)}
        if c.gan_weight:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(spec.seed)
                modules["judge"] = FeatureJudge(teacher.network, c.depths).train()
            optimizers["judge"] = Optimizer(("judge",), c.judge_lr, betas, 0.0, c.schedule)
        return Built(EulerStudent(network), modules, optimizers)

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update of the student, and one of the judge."""
        c, condition = self.config, batch.condition
        loss, scalars = self._consistency(batch, context)
        sample: Tensor | None = None
        if context.step >= c.warmup and (c.gan_weight or c.reflow_weight):
            noise = context.random.normal("noise", batch.shape)
            one = torch.ones(len(noise)).to(noise)
            with torch.set_grad_enabled(c.gan_weight > 0):
                sample = noise - context.networks["student"](noise, one, condition)
            if c.gan_weight:
                noisy, t = self._noised("generator", sample, context)
                deceiving = deceiving_loss(context.frozen("judge")(noisy, t, condition))
                loss = loss + c.gan_weight * deceiving
                scalars["generator_gan_loss"] = deceiving.detach()
            sample = sample.detach()
            if c.reflow_weight:
                t = context.random.uniform("reflow time")
                straight = flow.interpolate(sample, noise, t)
                error = (
                    self._estimate("student", straight, t, condition, context) - sample
                ).square()
                loss = loss + c.reflow_weight * error.mean()
                scalars["reflow_loss"] = error.mean().detach()
        average = context.modules["average"]
        assert isinstance(average, Average)
        average.follow(context.modules["student"], context)
        yield Update("student", loss, scalars=scalars)
        if c.gan_weight and sample is not None:
            assert batch.x0 is not None
            judge = context.networks["judge"]
            seen, at = self._noised("real", batch.x0, context)
            noisy, t = self._noised("judged", sample, context)
            adversarial = judged_loss(judge(seen, at, condition), judge(noisy, t, condition))
            yield Update("judge", adversarial, scalars={"discriminator_loss": adversarial.detach()})

    def _consistency(self, batch: Batch, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of neighbours towards data, and towards noise."""
        c, random, condition = self.config, context.random, batch.condition
        assert batch.x0 is not None
        t = random.uniform("time")
        x = flow.interpolate(batch.x0, random.normal("path noise", batch.shape), t)
        estimate = self._estimate("student", x, t, condition, context)
        velocity = context.teacher(x, t, condition)
        by = -random.uniform("step") * t.clamp(max=c.window)
        with torch.no_grad():
            state, there = neighbour(x, velocity, t, by)
            target = self._estimate("average", state, there, condition, context)
            near = flow.expand((there < c.truncated).to(x), x)
            target = torch.where(near > 0, batch.x0, target)
        loss = pseudo_huber(estimate - target, c.huber).mean()
        scalars = {"loss": loss.detach()}
        if c.bidirectional_weight and context.step >= c.warmup:
            by = random.uniform("step back") * (1 - t).clamp(max=c.window)
            with torch.no_grad():
                state, there = neighbour(x, velocity, t, by)
                target = self._estimate("average", state, there, condition, context)
            back = pseudo_huber(estimate - target, c.huber).mean()
            loss = loss + c.bidirectional_weight * back
            scalars["bidirectional_loss"] = back.detach()
        return loss, scalars

    def _estimate(
        self, role: str, x: Tensor, t: Tensor, condition: Condition, context: Context
    ) -> Tensor:
        return flow.x0_from_velocity(x, context.networks[role](x, t, condition), t)

    def _noised(self, name: str, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Samples with noise and times of their own, as the judge sees them."""
        t = context.random.normal(f"{name} time").sigmoid()
        return flow.interpolate(x, context.random.normal(f"{name} noise", x.shape[1:]), t), t
