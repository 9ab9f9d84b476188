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
    Built,
    Condition,
    Facts,
    Method,
    SampleRandom,
    Spec,
    Student,
    Teacher,
    flow,
    setting,
)

SAMPLERS = ("euler", "renoise")


@dataclass(frozen=True)
class Config:
    """How a published model is sampled."""

    sampler: str = setting("euler", choices=SAMPLERS)  # renoise: to data and back, with fresh noise
    shift: float = setting(1.0, above=0)  # time warp of the grid
    terminal: float = setting(0.0, least=0, below=1)  # the last time before 0; 0: as it comes
    scale: float = setting(1.0, above=0)  # of a LoRA
    # the guidance that the network is told, where it is told any; None: the teacher's
    told: float | None = setting(None, least=0)


class FewStepNetwork(nn.Module):
    """The teacher's network with published weights; it predicts velocities."""

    def __init__(self, backbone: Any, config: Config) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        if config.told is not None:
            if not getattr(backbone, "takes_guidance", False):
                raise ValueError(f"told={config.told:g}: this network is told no guidance")
            backbone.told = config.told

    def read_published(self, path: Path, where: str) -> dict[str, Tensor] | None:
        """A LoRA's tensors, its scale folded in, with all that it leaves as it is."""
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

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Velocity ``(B, *sample)``."""
        velocity: Tensor = self.backbone(x, t, condition)
        return velocity


@dataclass
class FewStepStudent(Student):
    """Euler steps, or a jump to data and fresh noise in every step."""

    network: Any
    config: Config

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations."""
        c = self.config
        times = flow.time_grid(nfe, c.shift, terminal=c.terminal)
        if c.sampler == "euler":
            return flow.euler(lambda x, t: self.network(x, t, condition), noise, times)
        x = noise
        for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
            at = t.to(x).expand(len(x))
            x0 = flow.x0_from_velocity(x, self.network(x, at, condition), at)
            fresh = random.normal(i, noise.shape[1:]) if s > 0 else torch.zeros_like(x)
            x = flow.interpolate(x0, fresh, float(s))
        return x


class FewStep(Method):
    """Published weights of a few-step model, scored as they are; nothing is trained.

    A LoRA of the teacher, or a whole model, with the sampler it is published for.
    """

    Config = Config
    facts = Facts(
        family="published",
        elastic=True,
        published=True,
        fidelity="the published weights, sampled as they are published",
    )

    def facts_for(self) -> Facts:
        """Fresh noise makes samples depend on more than their first."""
        return replace(self.facts, stochastic=self.config.sampler == "renoise")

    def build(self, teacher: Teacher, spec: Spec) -> Built:
        """The teacher's network, to be given the published weights."""
        network = FewStepNetwork(copy.deepcopy(teacher.network), self.config)
        student = FewStepStudent(network, self.config)
        return Built(student, {"student": network}, optimizers={}, ema=())
