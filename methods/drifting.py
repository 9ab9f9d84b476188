"""Drifting models (arXiv 2602.04770): one-step samples move along a force that data exert.

No path and no teacher: ``x = eps - U(eps, 1)`` is pulled by real samples of its label and pushed by
the other generated ones, and learns where that would take it,

    L = mean ||x/s - sg(x/s + V(x))||^2,

whose gradient is the force's. As generated and real samples are distributed alike, pull and push
are equal in expectation, up to a bias of small groups: a generated sample does not push itself, a
real one pulls all. It leaves a Gaussian's mean where it is; with groups of 8 and 8 real samples its
spread in the plane comes out 4 % too large, with 16 and 64 6 %, and with 64 and 64 less than 1 %
(tests/methods/test_drifting.py).

A row of the batch is a group: its condition's label, of which ``generated`` samples are made, so
that samples that act on each other are never apart. Its real sample goes into the label's bank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from piflow_methods.parts.banks import Bank, label_of
from piflow_methods.parts.stepping import EulerStudent
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
    log_between,
    setting,
)

APART = 100.0
"""Added to a sample's distance to itself, in mean distances: it does not push itself."""
LEAST_AFFINITY = 1e-3
"""Of any two samples, so that those far from all others feel something (official code).

It pulls samples that are all in one place as one: a generator starts apart, as noise is.
"""


@dataclass(frozen=True)
class Config:
    """Settings of drifting models; defaults are the paper's ablation setting on ImageNet."""

    generated: int = setting(64, least=2, search=among(16, 32, 64))  # of a group
    positives: int = setting(64, least=1, search=among(16, 32, 64))  # real samples of its label
    unconditional: int = setting(16, least=1)  # real ones of any label that push, where guided
    bank: int = setting(128, least=1)  # the latest real samples of a label, held
    # of the kernels, in mean distances of a group
    temperatures: tuple[float, ...] = setting((0.02, 0.05, 0.2), above=0)
    guidance: float | None = setting(None, least=1)  # None takes the teacher's
    lr: float = setting(2e-4, least=0, search=log_between(2e-5, 2e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.95, least=0, below=1)
    weight_decay: float = setting(0.01, least=0)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise ValueError("temperatures=[]: a force has at least one kernel")


def force(
    x: Tensor,
    positives: Tensor,
    negatives: Tensor,
    weight: float,
    temperatures: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """The normalised drift V of groups and their scales s (Algorithm 2, A.6 and A.7).

    Args:
        x: generated samples ``(B, G, D)``, which push each other.
        positives: what pulls them ``(B, P, D)``.
        negatives: what else pushes them ``(B, N, D)``; N may be 0.
        weight: of a negative, where one generated sample's is 1.
        temperatures: of the kernels ``exp(-d / temperature)``, d in mean distances of the group.

    Returns:
        V ``(B, G, D)`` in units of s, a sum over temperatures of forces whose root mean square in a
        group is 1, and s ``(B, 1, 1)``, by which the mean distance is sqrt(D).
    """
    size, pushing = x.shape[1], x.shape[1] + negatives.shape[1]
    targets = torch.cat([x, negatives, positives], 1)
    ones = x.new_ones(targets.shape[1])
    weights = torch.cat([ones[:size], weight * ones[size:pushing], ones[pushing:]])
    distances = torch.cdist(x, targets, compute_mode="donot_use_mm_for_euclid_dist")
    mean = (distances * weights).mean((1, 2), keepdim=True) / weights.mean()
    mean = mean.clamp(min=1e-3)
    itself = torch.eye(size, targets.shape[1]).to(x)
    far = distances / mean + APART * itself
    scale = mean / x.shape[2] ** 0.5
    total = torch.zeros_like(x)
    for temperature in temperatures:
        logits = -far / temperature
        affinity = (logits.softmax(2) * logits.softmax(1)).sqrt().clamp(min=LEAST_AFFINITY)
        push, pull = (affinity * weights).split([pushing, positives.shape[1]], 2)
        shares = torch.cat([-push * pull.sum(2, keepdim=True), pull * push.sum(2, keepdim=True)], 2)
        drift = shares @ (targets / scale)
        total = total + drift / drift.square().mean((1, 2), keepdim=True).clamp(min=1e-8).sqrt()
    return total, scale


class Drifting(Method):
    """Drifting models (arXiv 2602.04770): samples drift to data while a generator is trained.

    Real samples of a label pull its generated ones, which push each other; the generator learns
    the moved samples, in one step and without a teacher.
    """

    Config = Config
    facts = Facts(
        family="distribution matching",
        track="from scratch",
        needs_data=True,
        needs_teacher=False,
        nfes=(1,),
        target="where a label's real samples are distributed as its generated ones mixed, as the "
        "guidance says, with real ones of any label",
        paper="arXiv:2602.04770",
        citation=cite(
            "deng2026drifting",
            "Deng, Mingyang and Li, He and Li, Tianhong and Du, Yilun and He, Kaiming",
            "Generative Modeling via Drifting",
            "2602.04770",
        ),
        fidelity="the published force on samples as they are, without the features of a trained "
        "encoder, without which it failed on ImageNet; a row of the batch is a group, in which the "
        "force is normalised; one guidance, not an input; unconditional samples are of the labels' "
        "banks; no style tokens",
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """A fresh network, and a bank of as many labels as there are."""
        c = self.config
        network = spec.fresh_network().requires_grad_(True).train()
        bank = Bank(getattr(spec.condition, "count", 1), c.bank, spec.shape)
        betas = c.beta1, c.beta2
        return Built(
            student=EulerStudent(network),
            modules={"student": network, "bank": bank},
            optimizers={
                "student": Optimizer(("student",), c.lr, betas, c.weight_decay, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Move every group's samples by their force."""
        c, random, bank = self.config, context.random, context.modules["bank"]
        assert batch.x0 is not None and isinstance(bank, Bank)
        rows, labels = len(batch), label_of(batch.condition, batch.x0)
        noise = random.normal("noise", (c.generated, *batch.shape)).flatten(0, 1)
        condition = batch.condition[torch.arange(rows).repeat_interleave(c.generated)]
        one = torch.ones(len(noise)).to(noise)
        x = noise - context.networks["student"](noise, one, condition)
        x = x.unflatten(0, (rows, c.generated)).flatten(2)
        with torch.no_grad(), context.products("float32"):
            positives = bank.of_label(batch.x0, labels, c.positives, random).flatten(2)
            negatives, weight = self._unconditional(bank, x, context)
            drift, scale = force(x.detach(), positives, negatives, weight, c.temperatures)
            target = x.detach() / scale + drift
        loss = (x / scale - target).square().mean()
        bank.keep(batch.x0, labels, context)
        yield Update("student", loss, scalars={"loss": loss.detach()})

    def _unconditional(self, bank: Bank, x: Tensor, context: Context) -> tuple[Tensor, float]:
        """Real samples of any label that push, and the weight of one, by the guidance (A.7)."""
        c = self.config
        guidance = context.teacher.guidance.scale if c.guidance is None else c.guidance
        if guidance <= 1 or context.step == 0:  # In the first step none is held.
            return x[:, :0], 0.0
        found = bank.of_any(c.unconditional, context.random).flatten(2).to(x)
        return found, (guidance - 1) * (c.generated - 1) / c.unconditional
