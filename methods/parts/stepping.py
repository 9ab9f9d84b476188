"""Students that step along the flow: by velocities, or by average velocities of whole steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from piflow_bench.api import Condition, SampleRandom, Student, flow


@dataclass
class EulerStudent(Student):
    """Euler's method on the student's velocities, on a uniform grid."""

    network: Any

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations."""
        times = flow.time_grid(nfe)
        return flow.euler(lambda x, t: self.network(x, t, condition), noise, times)


def average_velocity(network: Any, x: Tensor, t: Tensor, s: Tensor, condition: Condition) -> Tensor:
    """``F(x, t, s)`` from times t to s ``(B,)``, of a network with a second time."""
    return network(x, t, condition, duration=t - s)


@dataclass
class FlowMapStudent(Student):
    """Steps ``x_r = x_t - (t - r) U(x_t, t, r)`` on a uniform grid."""

    network: Any
    start: float = 1.0
    """Time of the first step, which is given the noise as it is."""

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations; ``shift`` warps the grid."""
        x, times = noise, self.start * flow.time_grid(nfe, settings.get("shift", 1.0))
        for t, r in zip(times[:-1], times[1:], strict=True):
            at = t.expand(len(x)).to(x)
            x = x - (t - r) * average_velocity(self.network, x, at, r, condition)
        return x
