"""Consistency models (arXiv 2303.01469): estimates of the data agree along a path of the flow.

f(x, t) = x - t F(x, t) is the data itself at t = 0, so that agreement of neighbouring times carries
it there from all others. Levels of noise are EDM's sigma = t / (1 - t). What differs is a setting:

``path``: the next state is the teacher's solver's (consistency distillation, the default), or lies
    on the sample's own line to its noise (training), whose flow is the data's, without guidance.
``nodes_end``, ``time_law=lognormal``, ``distance=huber``, ``weight=span``: improved training's
    doubling grid, its times, distance and weight (arXiv 2310.14189).
``grid=ect``: pairs without a grid, whose second draws near as the training goes (arXiv 2406.14548).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.consistency import Average, doubled, ect_end, estimate, grid, pair
from piflow_methods.parts.renoising import RenoisingStudent
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
    among,
    cite,
    flow,
    log_between,
    setting,
)

TARGET = "where the data's flow without guidance ends"
CT = cite(
    "song2023ict",
    "Song, Yang and Dhariwal, Prafulla",
    "Improved Techniques for Training Consistency Models",
    "2310.14189",
)
ECT = cite(
    "geng2024ect",
    "Geng, Zhengyang and Pokle, Ashwini and Luo, William and Lin, Justin and Kolter, J. Zico",
    "Consistency Models Made Easy",
    "2406.14548",
)


@dataclass(frozen=True)
class Config:
    """Settings of consistency models; defaults are those of distillation on ImageNet 64."""

    path: str = setting("teacher", choices=("teacher", "data"))  # where the next state lies
    grid: str = setting("karras", choices=("karras", "ect"))  # of pairs of times
    nodes: int = setting(40, least=2, search=among(10, 20, 40))  # of the grid
    # to which they are doubled as the training goes; None: they stay
    nodes_end: int | None = setting(None, least=2)
    # intervals are equally probable, or as logs of sigma are normal
    time_law: str = setting("uniform", choices=("uniform", "lognormal"))
    log_mean: float = setting(-1.1)
    log_std: float = setting(2.0, above=0)
    sigma_min: float = setting(0.002, above=0)
    sigma_max: float = setting(80.0, above=0)  # where samples start
    rho: float = setting(7.0, above=0)
    # times that the pairs of "ect" draw nearer, each time by the factor
    stages: int = setting(8, least=1)
    nearer: float = setting(2.0, above=1)
    solver: str = setting("heun", choices=("euler", "heun"))  # the teacher's, one step
    distance: str = setting("squared", choices=("squared", "huber"))
    huber: float = setting(0.00054, above=0)  # where it is no longer squared, per root of elements
    weight: str = setting("none", choices=("none", "span"))  # of pairs: 1 / (sigma - next sigma)
    # of the running average that gives targets; 0: the student itself
    decay: float = setting(0.95, least=0, below=1, search=among(0.0, 0.9, 0.95))
    step_shift: float = setting(1.0, above=0)  # time warp of the multi-step grid
    lr: float = setting(8e-6, least=0, search=log_between(8e-7, 8e-5))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.999, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min}: is below sigma_max={self.sigma_max}")
        if self.nodes_end is not None and self.nodes_end < self.nodes:
            raise ValueError(f"nodes_end={self.nodes_end}: is at least nodes={self.nodes}")


class Consistency(Method):
    """Consistency models (arXiv 2303.01469), distilled, or trained on data from the teacher.

    The estimate of the data is the same all along a path of the flow: where two of its states
    are given, that of the noisier one is drawn to the other's.
    """

    Config = Config
    facts = Facts(
        family="consistency",
        needs_data=True,
        auxiliary=("average",),
        elastic=True,
        stochastic=True,
        paper="arXiv:2303.01469",
        citation=cite(
            "song2023consistency",
            "Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya",
            "Consistency Models",
            "2303.01469",
        ),
        fidelity="the paper's grid, solver, weights and average; squared errors, since its LPIPS "
        "needs pictures; an interval from the grid's end to the data itself",
    )

    def facts_for(self) -> Facts:
        """Of which paper the settings are, and where its optimum lies."""
        c = self.config
        facts = replace(
            self.facts,
            auxiliary=("average",) if c.decay else (),
            target=TARGET if c.path == "data" else "",
        )
        if c.path == "teacher" and c.grid == "karras":
            return facts
        ect = c.grid == "ect"
        differs = "; the teacher's step gives the next state" if c.path == "teacher" else ""
        return replace(
            facts,
            paper="arXiv:2406.14548" if ect else "arXiv:2310.14189",
            citation=ECT if ect else CT,
            fidelity="the paper's pairs, distance and weights; from the teacher's weights, without "
            f"dropout{differs}",
        )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone, and its running average."""
        c = self.config
        network = copy.deepcopy(teacher.network).requires_grad_(True).train()
        modules: dict[str, Any] = {"student": network}
        if c.decay:
            modules["average"] = Average(network, c.decay)
        return Built(
            student=RenoisingStudent(network, c.step_shift, start=c.sigma_max / (1 + c.sigma_max)),
            modules=modules,
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def times(self, context: Context) -> tuple[Tensor, Tensor]:
        """Times ``t > r`` of each row ``(B,)``."""
        c = self.config
        if c.grid == "ect":
            sigma = (c.log_mean + c.log_std * context.random.normal("time")).exp()
            stage = min(int(context.progress * c.stages), c.stages - 1)
            end = ect_end(sigma, c.nearer ** (stage + 1))
            return sigma / (1 + sigma), end / (1 + end)
        nodes = doubled(c.nodes, c.nodes_end or c.nodes, context.progress)
        edges = grid(nodes, c.sigma_min, c.sigma_max, c.rho)
        law = (c.log_mean, c.log_std) if c.time_law == "lognormal" else None
        return pair(edges, context.random.uniform("time"), law)

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update towards the estimate of the path's next state."""
        c, condition = self.config, batch.condition
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        t, r = self.times(context)
        x = flow.interpolate(batch.x0, noise, t)
        if c.path == "teacher":
            after = self._solved(x, t, r, condition, context)
        else:
            after = flow.interpolate(batch.x0, noise, r)
        with torch.no_grad():
            networks = context.networks
            target = estimate(networks["average" if c.decay else "student"], after, r, condition)
        error = (estimate(context.networks["student"], x, t, condition) - target).flatten(1)
        rows = error.square().mean(1)
        told = rows.detach().mean()
        if c.distance == "huber":
            rows = (rows + c.huber**2).sqrt() - c.huber
        if c.weight == "span":
            rows = rows / (t / (1 - t) - r / (1 - r))
        yield Update("student", rows.mean(), scalars={"loss": told})
        if c.decay:
            average = context.modules["average"]
            assert isinstance(average, Average)
            average.follow(context.modules["student"], context)

    def _solved(
        self, x: Tensor, t: Tensor, r: Tensor, condition: Condition, context: Context
    ) -> Tensor:
        """The state at r by one step of the teacher's solver; to the data it is Euler's."""
        velocity = context.teacher(x, t, condition)
        span = flow.expand(t - r, x)
        after = x - span * velocity
        if self.config.solver == "euler":
            return after
        inside = r > 0
        second = context.teacher(after, torch.where(inside, r, t), condition)
        return torch.where(flow.expand(inside, x) > 0, x - span * (velocity + second) / 2, after)
