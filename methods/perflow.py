"""PeRFlow (arXiv 2405.07510): the teacher's path made straight in each of a few windows of time.

Data noised to a window's start are taken to its end by the teacher, while training, and the line
between the two is what is regressed; at N evaluations there are N windows of one step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

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
    among,
    cite,
    flow,
    log_between,
    setting,
)


@dataclass(frozen=True)
class Config:
    """Settings of PeRFlow; defaults are those of Stable Diffusion 1.5."""

    solver_steps: int = setting(8, least=1, search=among(2, 4, 8))  # Euler's, in a window
    lr: float = setting(8e-5, least=0, search=log_between(8e-6, 8e-4))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


class PeRFlow(Method):
    """PeRFlow (arXiv 2405.07510): piecewise rectified flow, solved as the training goes.

    Time is cut into windows; in each the teacher's start and end are joined by a straight line,
    whose velocity is regressed all along it.
    """

    Config = Config
    facts = Facts(
        family="regression",
        needs_data=True,
        paper="arXiv:2405.07510",
        citation=cite(
            "yan2024perflow",
            "Yan, Hanshu and Liu, Xingchao and Pan, Jiachun and Liew, Jun Hao and Liu, Qiang and "
            "Feng, Jiashi",
            "PeRFlow: Piecewise Rectified Flow as Universal Plug-and-Play Accelerator",
            "2405.07510",
        ),
        fidelity="after the paper, in the flow's times and velocities; as many windows as "
        "evaluations, one step each",
    )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        self.windows = spec.train_nfe or 1
        return Built(
            student=EulerStudent(network),
            modules={"student": network},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """Regress the velocity of a line from a window's start to the teacher's end of it."""
        c, condition, random = self.config, batch.condition, context.random
        assert batch.x0 is not None
        window = random.integers("window", self.windows).to(batch.x0)
        high = 1 - window / self.windows
        width = 1 / self.windows
        start = flow.interpolate(batch.x0, random.normal("noise", batch.shape), high)
        end = start
        for i in range(c.solver_steps):
            at = high - width * i / c.solver_steps
            end = end - width / c.solver_steps * context.teacher(end, at, condition)
        back = random.uniform("time")  # From the window's start, in windows.
        velocity = (start - end) / width
        x = start - flow.expand(back * width, start) * velocity
        prediction = context.networks["student"](x, high - back * width, condition)
        loss = (prediction - velocity).square().mean()
        yield Update("student", loss, scalars={"loss": loss.detach()})
