"""Latent adversarial distillation (LADD, arXiv 2403.12015), with ADD's and D2O's settings.

A student from the teacher's weights, at the steps of its own path, is judged by light heads on
several depths of the frozen teacher, which see noised samples. What differs is a setting:

``real``: what the samples are judged against, the teacher's (the default) or the data.
``distillation_weight``: ADD's squared error to the teacher's estimate of the data of the noised
    sample (arXiv 2311.17042; its discriminator looks at pictures by DINO).
``trained=norms``: D2O's control (arXiv 2506.09376), whether distillation is needed at all: against
    data, of norms, modulations, embeddings and last layer alone, the like of its U-Net's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.judges import FeatureJudge, deceiving_loss, judged_loss
from piflow_methods.parts.pairs import PairBuffer, buffer_for
from piflow_methods.parts.renoising import RenoisingStudent, simulated
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
    """Settings of adversarial distillation."""

    real: str = setting("teacher", choices=("teacher", "data"))  # what the judge takes for real
    # shares of the teacher's blocks that the judge looks through
    depths: tuple[float, ...] = setting((0.25, 0.5, 0.75), above=0, most=1)
    # times at which it looks are logit-normal, warped towards noise
    time_mean: float = setting(0.0)
    time_std: float = setting(1.0, above=0)
    time_shift: float = setting(1.0, above=0)
    # weight of the squared change of logits of real samples
    r1: float = setting(100.0, least=0, search=log_between(1.0, 1000.0))
    r1_noise: float = setting(0.1, above=0)  # under noise of this size
    distillation_weight: float = setting(0.0, least=0)  # of ADD's error to the teacher's estimate
    trained: str = setting("all", choices=("all", "norms"))  # of the student's weights
    step_shift: float = setting(1.0, above=0)  # time warp of the multi-step grid
    # the judge's updates per generator update
    ratio: int = setting(1, least=1, search=among(1, 2, 5))
    pairs: int = setting(4096, least=1)  # the teacher's samples held at once
    pair_share: float = setting(0.25, above=0, below=1)  # of the compute, for making them
    pair_steps: int = setting(16, least=1)
    lr: float = setting(1e-5, least=0, search=log_between(1e-6, 1e-4))
    judge_lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.0, least=0, below=1)
    beta2: float = setting(0.99, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if not self.depths:
            raise ValueError("depths=[]: the judge looks through at least one")


class LADD(Method):
    """LADD (arXiv 2403.12015): adversarial distillation on the frozen teacher's features.

    Light heads on several depths of the frozen teacher judge noised samples against the
    teacher's own, or against data.
    """

    Config = Config
    facts = Facts(
        family="adversarial",
        auxiliary=("judge",),
        stochastic=True,
        target="at the teacher's samples, as its own features tell them apart",
        backbone=("features",),
        paper="arXiv:2403.12015",
        citation=cite(
            "sauer2024ladd",
            "Sauer, Axel and Boesel, Frederic and Dockhorn, Tim and Blattmann, Andreas and "
            "Esser, Patrick and Rombach, Robin",
            "Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation",
            "2403.12015",
        ),
        fidelity="after the paper, whose schedules of resolution and weights are unpublished; its "
        "steps are those of sampling, R1 is by finite noise",
    )

    def facts_for(self) -> Facts:
        """Real samples are the teacher's or the data's."""
        if self.config.real == "teacher":
            return self.facts
        return replace(
            self.facts, needs_data=True, target="at the data, as the teacher's features see it"
        )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The generator, and heads on the teacher."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        if c.trained == "norms":
            keep_but_norms(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            judge = FeatureJudge(teacher.network, c.depths).train()
        modules: dict[str, nn.Module] = {"student": network, "judge": judge}
        if c.real == "teacher":
            modules["pairs"] = buffer_for(c.pairs, c.pair_share, replace(spec, train_nfe=1))
        self.nfe = spec.train_nfe or 1
        betas = (c.beta1, c.beta2)
        return Built(
            student=RenoisingStudent(network, c.step_shift),
            modules=modules,
            optimizers={
                "student": Optimizer(("student",), c.lr, betas, 0.0, c.schedule),
                "judge": Optimizer(("judge",), c.judge_lr, betas, 0.0, c.schedule),
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """A generator update every ``ratio`` steps; one of the judge in every step."""
        c, condition = self.config, batch.condition
        update_generator = context.step % c.ratio == 0
        times = flow.time_grid(self.nfe, c.step_shift)[:-1]
        chosen = context.random.shared_integer("simulated steps", self.nfe)
        with torch.set_grad_enabled(update_generator):
            x, _ = simulated(context.networks["student"], times, chosen, batch, context)
        if update_generator:
            yield self._generator_update(x, batch, context)
        x = x.detach()

        real, of_real = self._real(batch, context)
        judge = context.networks["judge"]
        noisy, t = self._noised("judged", x, context)
        seen, at = self._noised("real", real, context)
        logits = judge(seen, at, of_real)
        loss = judged_loss(logits, judge(noisy, t, condition))
        scalars = {"discriminator_loss": loss.detach()}
        if c.r1:
            moved = seen + c.r1_noise * context.random.normal("r1 noise", batch.shape)
            change = (judge(moved, at, of_real) - logits).square().mean()
            loss = loss + c.r1 * change
            scalars["r1"] = change.detach()
        yield Update("judge", loss, scalars=scalars)

    def _real(self, batch: Batch, context: Context) -> tuple[Tensor, Condition]:
        """Samples that are taken for real, and their conditions."""
        c = self.config
        if c.real == "data":
            assert batch.x0 is not None
            return batch.x0, batch.condition
        buffer = context.modules["pairs"]
        assert isinstance(buffer, PairBuffer)
        states, condition = buffer.draw(batch, context, c.pair_steps)
        return states[:, -1], condition

    def _noised(self, name: str, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Samples with noise and times of their own, as the judge sees them."""
        c, random = self.config, context.random
        t = flow.warp(
            (c.time_mean + c.time_std * random.normal(f"{name} time")).sigmoid(), c.time_shift
        )
        return flow.interpolate(x, random.normal(f"{name} noise", x.shape[1:]), t), t

    def _generator_update(self, x: Tensor, batch: Batch, context: Context) -> Update:
        c, condition = self.config, batch.condition
        noisy, t = self._noised("generator", x, context)
        loss = deceiving_loss(context.frozen("judge")(noisy, t, condition))
        scalars = {"loss": loss.detach()}
        if c.distillation_weight:
            at = noisy.detach()
            estimate = flow.x0_from_velocity(at, context.teacher(at, t, condition), t)
            error = (x - estimate).square().mean()
            loss = loss + c.distillation_weight * error
            scalars["distillation_loss"] = error.detach()
        return Update("student", loss, scalars=scalars)


def keep_but_norms(network: Any) -> None:
    """Leave norms, their modulations, embeddings and output layers to be trained, and no others."""
    trained = ("norm", "embed", "ada", "modulation", "proj_out")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(word in name.lower() for word in trained))
