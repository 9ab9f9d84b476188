"""Flow maps: MeanFlow (arXiv 2505.13447), and what differs from it by a setting.

The average velocity from one time to another is trained, from scratch or distilled from the
teacher. MeanFlow's settings are the defaults; of others the equations are in ``parts.flow_maps``:

``ratio_start``, ``ratio_end``: the target's first step is a share of the interval, which shrinks
    while it is trained (alpha-Flow, arXiv 2510.20771; SoFlow, arXiv 2512.15657).
``residual``: errors are the map's residual, which is larger by 1 / ratio (SoFlow).
``jvp=finite-difference``: its derivative is a central difference (TiM, arXiv 2509.04394).
``whole_share``, ``row_weight``: intervals down to data, and weights by times (TiM; AnyFlow, arXiv
    2605.13724).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from piflow_methods.parts.derivatives import differenced, exact_derivative
from piflow_methods.parts.flow_maps import (
    RATIO_LAWS,
    ROW_WEIGHTS,
    adaptive_loss,
    ratio_at,
    row_weight,
    secant_target,
)
from piflow_methods.parts.stepping import FlowMapStudent
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
    between,
    cite,
    flow,
    log_between,
    setting,
)

ALPHA_FLOW = (
    "arXiv:2510.20771",
    cite(
        "zhang2025alphaflow",
        "Zhang, Huijie and Siarohin, Aliaksandr and Menapace, Willi and Vasilkovsky, Michael and "
        "Tulyakov, Sergey and Qu, Qing and Skorokhodov, Ivan",
        "AlphaFlow: Understanding and Improving MeanFlow Models",
        "2510.20771",
    ),
)
SOFLOW = (
    "arXiv:2512.15657",
    cite(
        "luo2025soflow",
        "Luo, Tianze and Yuan, Haotian and Liu, Zhuang",
        "SoFlow: Solution Flow Models for One-Step Generative Modeling",
        "2512.15657",
    ),
)
TIM = (
    "arXiv:2509.04394",
    cite(
        "wang2025tim",
        "Wang, Zidong and Zhang, Yiyuan and Yue, Xiaoyu and Yue, Xiangyu and Li, Yangguang and "
        "Ouyang, Wanli and Bai, Lei",
        "Transition Models: Rethinking the Generative Learning Objective",
        "2509.04394",
    ),
)
TIME_LAWS = ("logit-normal", "uniform")
JVP = ("exact", "finite-difference")


@dataclass(frozen=True)
class Config:
    """Settings of MeanFlow; defaults are the paper's for ImageNet."""

    distill: bool = True  # the teacher's guided velocity replaces the data velocity
    # of two draws t is the larger
    time_law: str = setting("logit-normal", choices=TIME_LAWS, search=among(*TIME_LAWS))
    time_mean: float = setting(-0.4)  # of the logit-normal law
    time_std: float = setting(1.0, above=0)
    # the second draw's own logit-normal law; None: as the first
    end_mean: float | None = setting(None, search=among(None, -4.0))
    end_std: float = setting(1.6, above=0)
    # rows with r = t, independently
    instant_share: float = setting(0.75, least=0, most=1, search=between(0.25, 0.75))
    whole_share: float = setting(0.0, least=0, most=1)  # rows with r = 0, of the others none
    # share of the interval that the target's first step takes; 0: a derivative is taken
    ratio_start: float = setting(0.0, least=0, most=1)
    ratio_end: float = setting(0.0, least=0, most=1)
    ratio_law: str = setting("sigmoid", choices=RATIO_LAWS)  # between them
    # part of the training in which it moves; below the floor a derivative is taken, near 1 none
    ratio_moves: tuple[float, float] = setting((0.5, 0.8333), least=0, most=1)
    ratio_floor: float = setting(0.005, least=0, below=0.5)
    ratio_power: float = setting(0.0, least=0)  # of the ratio, in the weight of intervals
    residual: bool = False  # errors of intervals are divided by the ratio
    target_clip: float | None = setting(None, above=0)  # of the targets of intervals
    row_weight: str = setting("none", choices=ROW_WEIGHTS)  # of rows, by their times
    # p of the adaptive loss weight
    power: float = setting(1.0, least=0, search=between(0.5, 1.0))
    weight_floor: float = setting(0.01, above=0)  # c of the adaptive loss weight, per sample
    jvp: str = setting("exact", choices=JVP, search=among(*JVP))
    # in t, along the target velocity; at most half the interval
    difference_step: float = setting(0.05, above=0, most=0.5)
    # of the products in dU/dt
    derivative_precision: str = setting("float32", choices=("float32", "tf32", "bfloat16"))
    tangent_warmup: int = setting(0, least=0)  # steps over which the derivative term is ramped up
    # from scratch: w (1 - kappa); None takes it from the teacher's w
    omega: float | None = setting(None)
    # from scratch: share of the class-conditional self-prediction
    kappa: float = setting(0.0, least=0, below=1)
    class_dropout: float = setting(0.1, least=0, most=1)  # from scratch
    lr: float = setting(1e-4, least=0, search=log_between(1e-5, 1e-3))
    beta1: float = setting(0.9, least=0, below=1)
    beta2: float = setting(0.95, least=0, below=1)
    schedule: str = setting("constant", choices=SCHEDULES)

    def __post_init__(self) -> None:
        if len(self.ratio_moves) != 2 or not self.ratio_moves[0] < self.ratio_moves[1]:
            raise ValueError(f"ratio_moves={list(self.ratio_moves)}: a share, and a later one")
        if self.ratio_law == "exponential" and not (self.ratio_start and self.ratio_end):
            raise ValueError("ratio_law=exponential: ratio_start and ratio_end are above 0")
        if self.instant_share + self.whole_share > 1:
            raise ValueError("instant_share and whole_share are at most 1 together")

    def ratio(self, progress: float) -> float:
        """Share of the interval in the target's first step; 0: the derivative's limit."""
        ratio = ratio_at(
            progress, self.ratio_law, self.ratio_start, self.ratio_end, self.ratio_moves
        )
        if ratio < self.ratio_floor:
            return 0.0
        return 1.0 if ratio > 1 - self.ratio_floor else ratio

    @property
    def takes_derivatives(self) -> bool:
        """Whether the ratio is 0 at some time."""
        return not (self.ratio(0.0) and self.ratio(1.0))


@dataclass(frozen=True)
class Sampling:
    """Settings of the student's sampler."""

    shift: float = setting(1.0, above=0)  # time warp of the grid


class MeanFlow(Method):
    """MeanFlow (arXiv 2505.13447): average velocities; one elastic student serves every NFE.

    The mean velocity between two times satisfies an identity with its own derivative along the
    path, which is what is trained.
    """

    Config = Config
    facts = Facts(
        family="flow map",
        needs_data=True,
        jvp="exact",
        elastic=True,
        backbone=("duration",),
        paper="arXiv:2505.13447",
        citation=cite(
            "geng2025meanflow",
            "Geng, Zhengyang and Deng, Mingyang and Bai, Xingjian and Kolter, J. Zico and He, "
            "Kaiming",
            "Mean Flows for One-step Generative Modeling",
            "2505.13447",
        ),
        fidelity="from scratch the published recipe; distilled, the teacher's guided velocity "
        "stands for the data's",
        version=3,
    )
    Sampling = Sampling

    def facts_for(self) -> Facts:
        """From scratch is another track and needs no teacher; settings are of several papers."""
        c = self.config
        paper, citation, fidelity = self.facts.paper, self.facts.citation, self.facts.fidelity
        if c.ratio_start or c.ratio_end:
            paper, citation = SOFLOW if c.residual else ALPHA_FLOW
            fidelity = "the paper's targets, ratios and weights; times and guidance are MeanFlow's"
        elif c.row_weight == "tangents":
            paper, citation = TIM
            fidelity = (
                "the paper's derivative, times and weights, without its cosine loss and alignment "
                "of features"
            )
        return replace(
            self.facts,
            track="distilled" if c.distill else "from scratch",
            needs_teacher=c.distill,
            jvp=c.jvp.replace("-", " ") if c.takes_derivatives else "none",
            paper=paper,
            citation=citation,
            fidelity=fidelity,
        )

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's backbone (or a fresh one) with a second time input."""
        c = self.config
        network: Any = copy.deepcopy(teacher.network) if c.distill else spec.fresh_network()
        network.add_duration()
        network.requires_grad_(True).train()
        self.guidance = teacher.guidance
        return Built(
            student=FlowMapStudent(network),
            modules={"student": network},
            optimizers={
                "student": Optimizer(("student",), c.lr, (c.beta1, c.beta2), 0.0, c.schedule)
            },
        )

    def times(self, context: Context) -> tuple[Tensor, Tensor]:
        """Times ``t >= r`` of each row, ``(B,)``."""
        c, random = self.config, context.random
        if c.time_law == "uniform":
            draws = random.uniform("times", (2,))
        else:
            draws = (c.time_mean + c.time_std * random.normal("times", (2,))).sigmoid()
        first, second = draws.unbind(1)
        if c.end_mean is not None:
            second = (c.end_mean + c.end_std * random.normal("end")).sigmoid()
        t, r = torch.maximum(first, second), torch.minimum(first, second)
        kind = random.uniform("instant")
        r = torch.where(kind >= 1 - c.whole_share, torch.zeros_like(r), r)
        return t, torch.where(kind < c.instant_share, t, r)

    def training_step(self, batch: Batch, context: Context) -> Iterator[Update]:
        """One update by the MeanFlow identity ``U = v - (t - r) dU/dt``."""
        c, student = self.config, context.networks["student"]
        assert batch.x0 is not None
        noise = context.random.normal("noise", batch.shape)
        t, r = self.times(context)
        x = flow.interpolate(batch.x0, noise, t)
        condition = batch.condition
        if c.distill:
            velocity = context.teacher(x, t, condition)
        else:
            condition, velocity = self._data_velocity(x, t, noise - batch.x0, condition, context)
        target, ratio = velocity.clone(), c.ratio(context.progress)
        rows = (t > r).nonzero()[:, 0]
        if len(rows):
            given = x[rows], t[rows], r[rows], velocity[rows], condition[rows]
            if ratio:
                found = secant_target(student, *given, ratio)
            else:
                found = self._limit(student, *given, context)
            clip = c.target_clip
            target[rows] = found if clip is None else found.clamp(-clip, clip)
        else:
            # Sharded weights are gathered in a call: every process makes as many, counted or not.
            with torch.no_grad():
                context.modules["student"](x[:1], t[:1], condition[:1], duration=t[:1] - r[:1])
        prediction = student(x, t, condition, duration=t - r)
        error, weight = prediction - target, row_weight(c.row_weight, t, r)
        told = {"loss": error.detach().square().mean()}
        if ratio:
            shares = torch.where(t > r, ratio, torch.ones_like(t))
            weight = weight * shares**c.ratio_power
            if c.residual:
                error = error / flow.expand(shares, x)
        loss = adaptive_loss(error, c.power, c.weight_floor, weight)
        yield Update("student", loss, scalars=told)

    def _limit(
        self,
        student: Any,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        velocity: Tensor,
        condition: Condition,
        context: Context,
    ) -> Tensor:
        """MeanFlow's target ``v - (t - r) dU/dt``."""
        warmup = self.config.tangent_warmup
        ramp = min((context.step + 1) / warmup, 1.0) if warmup else 1.0
        slope = self.derivative(student, x, t, r, velocity, condition, context)
        return velocity - ramp * flow.expand(t - r, x) * slope

    def derivative(
        self,
        student: Any,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        velocity: Tensor,
        condition: Condition,
        context: Context,
    ) -> Tensor:
        """Total derivative dU/dt along (velocity, dr = 0, dt = 1)."""
        c = self.config
        if c.jvp == "exact":
            return exact_derivative(
                student, x, t, r, velocity, condition, context, c.derivative_precision
            )
        return differenced(
            student,
            x,
            t,
            r,
            velocity,
            condition,
            context,
            c.derivative_precision,
            c.difference_step,
        )

    def _data_velocity(
        self, x: Tensor, t: Tensor, v: Tensor, condition: Condition, context: Context
    ) -> tuple[Condition, Tensor]:
        """Class dropout, and the guided velocity from the student's own predictions."""
        c, student = self.config, context.networks["student"]
        keep = context.random.uniform("class dropout") >= c.class_dropout
        w = self.guidance.scale
        omega = w * (1 - c.kappa) if c.omega is None else c.omega
        mixed = v
        if omega != 1 or c.kappa != 0:
            inside = keep & self.guidance.holds(t)
            with torch.no_grad():
                zero = torch.zeros_like(t)
                mixed = omega * v + (1 - omega - c.kappa) * student(
                    x, t, condition.null(), duration=zero
                )
                if c.kappa:
                    mixed = mixed + c.kappa * student(x, t, condition, duration=zero)
            mixed = torch.where(flow.expand(inside.float(), x) > 0, mixed, v)
        return condition.where(keep, condition.null()), mixed
