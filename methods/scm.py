"""Continuous-time consistency models (sCM, arXiv 2410.11081), distilled or trained on data.

The derivative of the data's estimate along the flow is what is trained to nothing, in TrigFlow's
variables (``parts.trigflow``), in which the paper found it stable; the network stays the flow's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.continuous import consistency_error
from piflow_methods.parts.renoising import RenoisingStudent
from piflow_methods.parts.trigflow import angle, mixture, trig_velocity
from torch import Tensor, nn

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
    """Settings of continuous-time consistency; defaults are those of distillation on ImageNet."""

    path: str = setting("teacher", choices=("teacher", "data"))  # whose flow is followed
    deviation: float = setting(0.5, above=0)  # of the data
    # log sigma of the times is normal, sigma the ratio of noise to data
    log_mean: float = setting(-1.0, search=among(-1.0, 0.0))
    log_std: float = setting(1.4, above=0)
    sigma_max: float = setting(80.0, above=0)  # where samples start
    # share of the training over which the derivative is ramped up
    tangent_warmup: float = setting(0.025, least=0, most=1, search=among(0.025, 0.25, 1.0))
    tangent_floor: float = setting(0.1, above=0)  # beside the norm that divides the direction
    uncertainty: bool = True  # a small network weighs the angles
    # of the products in the derivative
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    step_shift: float = setting(1.0, above=0)  # time warp of the multi-step grid
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.99, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)


class Uncertainty(nn.Module):
    """The log weight of an angle, from waves of it; 0 before it is trained."""

    def __init__(self, waves: int = 16) -> None:
        super().__init__()
        self.register_buffer("rates", torch.arange(1, waves + 1).float())
        self.last = nn.Linear(2 * waves, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, a: Tensor) -> Tensor:
        """Log weights ``(B,)`` of angles ``(B,)``."""
        at = a[:, None] * self.rates.to(a)
        return self.last(torch.cat([at.cos(), at.sin()], 1)).flatten()


class SCM(Method):
    """sCM (arXiv 2410.11081): consistency in continuous time, distilled or trained on data.

    Along the flow the estimate of the data does not change: its exact derivative, at a bounded
    length, is subtracted from what the network says.
    """

    Config = Config
    facts = Facts(
        family="consistency",
        needs_data=True,
        jvp="exact",
        elastic=True,
        stochastic=True,
        paper="arXiv:2410.11081",
        citation=cite(
            "lu2024scm",
            "Lu, Cheng and Song, Yang",
            "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models",
            "2410.11081",
        ),
        fidelity="the paper's loss, in its variables; the teacher's network as it is, without "
        "changes of its embedding and norms, and the learning rate's schedule is the run's",
    )

    def facts_for(self) -> Facts:
        """On data alone its optimum is the data's own flow."""
        c = self.config
        auxiliary = ("uncertainty",) if c.uncertainty else ()
        target = "where the data's flow without guidance ends" if c.path == "data" else ""
        return replace(self.facts, auxiliary=auxiliary, target=target)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone, and the weights of angles."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        modules: dict[str, Any] = {"student": network}
        if c.uncertainty:
            modules["uncertainty"] = Uncertainty()
        return Built(
            student=RenoisingStudent(network, c.step_shift, start=c.sigma_max / (1 + c.sigma_max)),
            modules=modules,
            optimizers={
                "student": Optimizer(tuple(modules), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update against the direction in which the estimate of the data changes."""
        c, condition, student = self.config, batch.condition, context.networks["student"]
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        sigma = (c.log_mean + c.log_std * context.random.normal("time")).exp()
        t = sigma / (1 + sigma)
        a = angle(t, c.deviation)
        state = flow.interpolate(batch.x0, noise, t)
        x = mixture(state, a, c.deviation)
        if c.path == "teacher":
            moved = trig_velocity(lambda x, t: context.teacher(x, t, condition), x, a, c.deviation)
        else:
            cos, sin = flow.expand(a.cos(), x), flow.expand(a.sin(), x)
            moved = cos * c.deviation * noise - sin * batch.x0

        error = consistency_error(
            student,
            x,
            a,
            moved,
            condition,
            context,
            deviation=c.deviation,
            warmup=c.tangent_warmup,
            floor=c.tangent_floor,
            precision=c.derivative_precision,
        )
        rows = error.flatten(1).square().mean(1)
        told = rows.detach().mean()
        if c.uncertainty:
            weight = context.networks["uncertainty"](a)
            rows = weight.exp() * rows - weight
        yield Update("student", rows.mean(), scalars={"loss": told})
