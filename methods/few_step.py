"""Published few-step models of a teacher: their weights, with the sampler that they are made for.

Nothing is trained: a variant names its weights (``checkpoint``), and here is how they are used.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.api import (
    LAYOUTS,
    Built,
    Classes,
    Condition,
    Facts,
    Method,
    PublishedMap,
    SampleRandom,
    Spec,
    Student,
    Teacher,
    Told,
    flow,
    setting,
)

SAMPLERS = ("euler", "renoise")
OF_TEACHER = "teacher"


@dataclass(frozen=True)
class Config:
    """How a published model is sampled."""

    # whose network it is: the teacher's own, or that of a published flow map
    layout: str = setting(OF_TEACHER, choices=(OF_TEACHER, *LAYOUTS), added=True)
    sampler: str = setting("euler", choices=SAMPLERS)  # renoise: to data and back, with fresh noise
    shift: float = setting(1.0, above=0)  # time warp of the grid
    terminal: float = setting(0.0, least=0, below=1)  # the last time before 0; 0: as it comes
    scale: float = setting(1.0, above=0)  # of a LoRA
    # the guidance that the network is told, where it is told any; None: the teacher's
    told: float | None = setting(None, least=0)
    # of imf: it holds for t in [low, high]
    told_low: float = setting(0.0, least=0, most=1, added=True)
    told_high: float = setting(1.0, least=0, most=1, added=True)
    handover: int = setting(20, least=0, added=True)  # of dmf: blocks that are told a step's start

    def __post_init__(self) -> None:
        if self.layout == "imf" and (self.told is None or self.told < 1):
            raise ValueError("layout=imf: told is the guidance that it is asked for, at least 1")
        if self.layout not in (OF_TEACHER, "imf") and self.told is not None:
            raise ValueError(f"told={self.told:g}: layout={self.layout} is told no guidance")


class FewStepNetwork(nn.Module):
    """The teacher's network with published weights, or another project's own."""

    def __init__(self, backbone: Any, config: Config) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        if config.told is not None and config.layout == OF_TEACHER:
            if not getattr(backbone, "takes_guidance", False):
                raise ValueError(f"told={config.told:g}: this network is told no guidance")
            backbone.told = config.told

    def read_published(self, path: Path, where: str) -> dict[str, Tensor] | None:
        """A flow map's tensors; or a LoRA's, its scale folded in, with all that it leaves."""
        if isinstance(self.backbone, PublishedMap):
            found = self.backbone.read(path, where)
            return {f"backbone.{name}": value for name, value in found.items()}
        if not hasattr(self.backbone, "with_lora"):
            return None
        state = self.backbone.with_lora(path, where, self.config.scale)
        return {f"backbone.{name}": value for name, value in state.items()}

    def check_model(self, path: Path, where: str) -> None:
        """Refuse a whole model that does not fit into the teacher's place."""
        self.backbone.base.check_model(path, where)

    def use_model(self, path: Path, where: str) -> None:
        """Be a whole model of its own: the teacher's network is a frame without weights."""
        self.backbone = self.backbone.base.with_model(path, where)
        if self.config.told is not None:
            self.backbone.guidance = self.config.told

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a whole network under this one's names."""
        return {f"backbone.{name}": value for name, value in state.items()}

    def forward(
        self, x: Tensor, t: Tensor, condition: Condition, duration: Tensor | None = None
    ) -> Tensor:
        """Velocity ``(B, *sample)``; a flow map's is the average over ``duration``."""
        more = {} if duration is None else {"duration": duration}
        velocity: Tensor = self.backbone(x, t, condition, **more)
        return velocity


@dataclass
class FewStepStudent(Student):
    """Euler steps, or a jump to data and fresh noise in every step.

    A velocity is that at a step's start; a flow map's is the step's own average, or the jump's.
    """

    network: Any
    config: Config

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations."""
        c = self.config
        times, x = flow.time_grid(nfe, c.shift, terminal=c.terminal), noise
        for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
            at = t.to(x).expand(len(x))
            if c.sampler == "euler":
                x = x - (t - s).to(x) * self._velocity(x, at, s, condition)
                continue
            x0 = flow.x0_from_velocity(x, self._velocity(x, at, 0 * s, condition), at)
            fresh = random.normal(i, noise.shape[1:]) if s > 0 else torch.zeros_like(x)
            x = flow.interpolate(x0, fresh, float(s))
        return x if c.layout == OF_TEACHER else LAYOUTS[c.layout].latents(x)

    def _velocity(self, x: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Any:
        """From t ``(B,)`` to s, which a network of velocities is not told."""
        if self.config.layout == OF_TEACHER:
            return self.network(x, t, condition)
        return self.network(x, t, condition, duration=t - s.to(t))


class FewStep(Method):
    """Published weights of a few-step model, scored as they are; nothing is trained.

    A LoRA of the teacher, or a whole model, with the sampler it is published for; or, by its
    ``layout``, a flow map that another project trained from scratch.
    """

    Config = Config
    facts = Facts(
        family="published",
        elastic=True,
        published=True,
        fidelity="the published weights, sampled as they are published",
    )

    def facts_for(self) -> Facts:
        """Fresh noise makes samples depend on more than their first; flow maps have no teacher."""
        facts = replace(self.facts, stochastic=self.config.sampler == "renoise")
        if self.config.layout == OF_TEACHER:
            return facts
        return replace(facts, track="from scratch", needs_teacher=False)

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The network, to be given the published weights."""
        c = self.config
        if c.layout == OF_TEACHER:
            backbone: Any = copy.deepcopy(teacher.network)
        else:
            told = None if c.told is None else Told(c.told, c.told_low, c.told_high)
            classes = spec.condition.count if isinstance(spec.condition, Classes) else 0
            backbone = PublishedMap(c.layout, spec.shape, classes, c.handover, told)
        network = FewStepNetwork(backbone, c)
        student = FewStepStudent(network, self.config)
        return Built(student, {"student": network}, optimizers={}, ema=())
