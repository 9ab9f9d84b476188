"""Students that estimate the data at every step and go on from it, and their simulated paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from piflow_bench.api import Batch, Condition, Context, SampleRandom, Student, flow


def onward(
    x: Tensor, x0: Tensor, t: Tensor, s: Tensor, noise: Callable[[], Tensor] | None
) -> Tensor:
    """From an estimate at time t to time s < t: fresh noise on it, or the ODE's own where None."""
    if noise is not None:
        return flow.interpolate(x0, noise(), s)
    return x0 + (x - x0) * flow.expand(s / t, x)


@dataclass
class RenoisingStudent(Student):
    """One-step generation, or estimate-and-renoise over several steps."""

    network: Any
    shift: float
    fresh: bool = True
    """Whether steps go on with fresh noise; else along the ODE, as Euler's method does."""
    start: float = 1.0
    """Noise level of the first step, which sees noise of that size."""

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples in ``nfe`` evaluations, with fresh noise between them or along the ODE."""
        times = self.start * flow.time_grid(nfe, self.shift)[:-1]
        x = self.start * noise
        for i, t in enumerate(times):
            at = t.expand(len(x)).to(x)
            x0 = flow.x0_from_velocity(x, self.velocity(x, at, condition), at)
            if i + 1 == nfe:
                return x0
            draw = (lambda i=i: random.normal(i, noise.shape[1:])) if self.fresh else None
            x = onward(x, x0, t, times[i + 1], draw)
        return x

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Of states x at times t ``(B,)``, straight to the estimates."""
        return self.network(x, t, condition)


class WholeWayStudent(RenoisingStudent):
    """The same of a network with a second time: its steps go down to data, as long as t."""

    def velocity(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Average velocities from times t ``(B,)`` down to data."""
        return self.network(x, t, condition, duration=t)


def simulated(
    student: Callable[..., Tensor],
    times: Tensor,
    chosen: int,
    batch: Batch,
    context: Context,
    fresh: bool = True,
) -> tuple[Tensor, Tensor]:
    """The student's estimate at a step of its own sampling path, and the step's time ``(B,)``.

    Backward simulation (DMD2, section 4.4): the steps before ``chosen`` run without gradient.

    Args:
        student: its velocity network.
        times: at which it is asked, descending, without the end; it sees noise of the first's size.
        chosen: the step whose estimate is wanted.
        batch: the conditions and the samples' shape.
        context: the training step's.
        fresh: see ``RenoisingStudent``.
    """
    condition = batch.condition
    x = times[0].item() * context.random.normal("noise", batch.shape)
    for i in range(chosen + 1):
        at = times[i].expand(len(x)).to(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and i == chosen):
            x0 = flow.x0_from_velocity(x, student(x, at, condition), at)
        if i < chosen:
            draw = (
                (lambda i=i: context.random.normal(f"renoise/{i}", batch.shape)) if fresh else None
            )
            x = onward(x, x0, times[i], times[i + 1], draw)
    return x0, at
