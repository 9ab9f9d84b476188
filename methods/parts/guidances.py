"""Guidance that a sampler chooses: by a second evaluation a step, or as the network's input.

As an input it is a scale w, and the times [low, high] at which it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from piflow_methods.parts.stepping import FlowMapStudent
from torch import Tensor

from piflow_bench.api import Condition, Guidance, SampleRandom, Teacher, flow


def inputs(scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """What a network is told of scales w >= 1 and intervals, ``(B,)`` each: ``(B, 3)``.

    1 - 1 / w is what the guided velocity is linear in, by the velocities with and without a label.
    """
    return torch.stack([1 - 1 / scale, low, high], 1)


def teacher_guided_by(
    teacher: Teacher,
    x: Tensor,
    t: Tensor,
    scale: Tensor,
    inside: Tensor,
    condition: Condition,
) -> Tensor:
    """The teacher's velocity ``(B, *sample)``, guided by a scale ``(B,)`` of each row's own.

    Rows that are not ``inside`` ``(B,)`` cost one evaluation, the others two.
    """
    rows = (inside & (scale != 1)).nonzero()[:, 0]
    both = teacher.conditional(
        torch.cat([x, x[rows]]),
        torch.cat([t, t[rows]]),
        condition.cat(condition[rows].null()),
    )
    plain, empty = both[: len(x)], both[len(x) :]
    own = plain[rows]
    pull = flow.expand(scale[rows] - 1, x) * (own - empty)
    if teacher.guidance.rule == "norm-rescaled":
        pull = flow.rescaled(own + pull, own) - own
    return plain.index_add(0, rows, pull.to(plain))


@dataclass
class GuidedFlowMapStudent(FlowMapStudent):
    """Steps of the flow map of a guidance that the sampler chooses."""

    teachers: Guidance = field(kw_only=True)
    most: float = field(kw_only=True)
    """The largest scale that was trained."""

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations, by the teacher's guidance where none is given."""
        own = self.teachers
        default = {"guidance": own.scale, "guidance_low": own.low, "guidance_high": own.high}
        told = [settings.get(name, value) for name, value in default.items()]
        if not 1 <= told[0] <= self.most:
            raise ValueError(f"guidance={told[0]:g}: scales of 1 to {self.most:g} were trained")
        given = inputs(*(noise.new_full((len(noise),), float(value)) for value in told))
        bound = FlowMapStudent(partial(self.network, guidance=given))
        return bound.sample(noise, condition, nfe, random, shift=settings.get("shift", 1.0))


def asked_twice(network: Any, scale: float) -> Any:
    """A network with a second time whose rows are asked twice, and guided by a scale."""

    def guided(x: Tensor, t: Tensor, condition: Condition, duration: Tensor) -> Tensor:
        x, t, duration = (torch.cat([each, each]) for each in (x, t, duration))
        both = network(x, t, condition.cat(condition.null()), duration=duration)
        return flow.guide(*both.chunk(2), scale)

    return guided


@dataclass
class TwiceAskedStudent(FlowMapStudent):
    """Steps of a flow map that is guided at inference, of two evaluations each."""

    guidance: float | None = None
    """Its scale; None: it is not guided, and a step is one evaluation."""

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations; ``guidance`` is another scale, where it is guided."""
        given = noise, condition
        if self.guidance is not None:
            network = asked_twice(self.network, settings.pop("guidance", self.guidance))
            return FlowMapStudent(network, self.start).sample(*given, nfe // 2, random, **settings)
        return super().sample(*given, nfe, random, **settings)
