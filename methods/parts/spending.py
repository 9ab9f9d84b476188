"""What solving the teacher's ODE costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from piflow_bench.api import Guidance, flow


def spent(
    solver: str,
    steps: int,
    options: dict[str, Any],
    guidance: Guidance,
    shift: float,
    terminal: float = 0.0,
) -> int:
    """Evaluations per sample of ``solver``: guided times cost two, times outside guidance one."""
    count = 0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal count
        count += 2 if guidance.holds(t).all() else 1
        return torch.zeros_like(x)

    times = flow.time_grid(steps, shift, terminal=terminal)
    flow.SOLVERS[solver](velocity, torch.zeros(1, 1), times, **options)
    return count
