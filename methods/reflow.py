"""Rectified flow (arXiv 2209.03003): straight lines between noise and where the teacher takes it.

First the field of the lines is learned, on which Euler's steps go further than on the teacher's
(2-rectified flow), then, for the rest of the training, at the steps that samples will take alone:
for one step InstaFlow's distillation (arXiv 2309.06380).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

from piflow_methods.parts.pairs import PairBuffer, buffer_for
from piflow_methods.parts.stepping import EulerStudent

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
    between,
    cite,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of rectified flow."""

    # of the training, for times of whole lines; 1: one student for every NFE, not distilled
    rectified: float = setting(0.5, least=0, most=1)
    pairs: int = setting(4096, least=1)  # held at once; the oldest go
    # of the compute, for making them
    pair_share: float = setting(0.25, above=0, below=1, search=between(0.1, 0.5))
    pair_steps: int = setting(16, least=1)  # Heun steps from noise to data
    lr: float = setting(2e-4, least=0, search=log_between(2e-5, 2e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


class Reflow(Method):
    """Rectified flow (arXiv 2209.03003, 2309.06380): the teacher's ends joined by straight lines.

    Each noise is joined with where the teacher's flow takes it, and the velocity of the line is
    regressed: all along it first, then at the student's own steps.
    """

    Config = Config
    facts = Facts(
        family="regression",
        paper="arXiv:2209.03003",
        citation=cite(
            "liu2022rectified",
            "Liu, Xingchao and Gong, Chengyue and Liu, Qiang",
            "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
            "2209.03003",
        ),
        fidelity="after the papers, squared errors in place of LPIPS; straightening and "
        "distillation share one budget, and a buffer is refilled in place of a fixed set",
    )

    def facts_for(self) -> Facts:
        """Without a distillation one student serves every NFE."""
        return replace(self.facts, elastic=self.config.rectified == 1)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone and an empty buffer of pairs."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        pairs = buffer_for(c.pairs, c.pair_share, replace(spec, train_nfe=1))
        self.nfe = spec.train_nfe or 1
        return Built(
            student=EulerStudent(network),
            modules={"student": network, "pairs": pairs},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Regress the velocity of lines, at any of their times or at the steps' own."""
        c, buffer = self.config, context.modules["pairs"]
        assert isinstance(buffer, PairBuffer)
        states, condition = buffer.draw(batch, context, c.pair_steps)
        noise, x0 = states[:, 0], states[:, -1]
        if context.progress < c.rectified:
            t = context.random.uniform("time")
        else:
            steps = context.random.integers("step", self.nfe)
            t = flow.time_grid(self.nfe)[:-1].to(x0)[steps]
        prediction = context.networks["student"](flow.interpolate(x0, noise, t), t, condition)
        loss = (prediction - (noise - x0)).square().mean()
        yield Update("student", loss, scalars={"loss": loss.detach()})
