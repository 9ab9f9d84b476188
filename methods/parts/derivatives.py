"""Derivatives of average velocities U(x, t, r) along the flow, by which flow maps are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from piflow_bench.api import Condition, Context, flow


def difference(t: Tensor, span: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Where, and with which weights, three values make a second-order derivative at t.

    Central where t + step <= 1 (the middle has weight 0), towards data elsewhere. Steps shrink with
    the interval, so that no value lies before its end.

    Args:
        t: times ``(B,)`` in [0, 1].
        span: lengths t - r ``(B,)`` of the intervals [r, t].
        step: in t, at most 1/2.

    Returns:
        Offsets from t, and weights, ``(B, 3)`` each.
    """
    h = span.clamp(max=step)
    inside = t + h <= 1
    # The least step keeps an empty interval's weights finite; its derivative is multiplied by 0.
    h = torch.where(inside, h, (span / 2).clamp(max=step)).clamp(min=1e-6)[:, None]
    offsets, weights = (
        torch.where(inside[:, None], h.new_tensor(central), h.new_tensor(backward))
        for central, backward in (([1, 0, -1], [0, -1, -2]), ([1, 0, -1], [3, -4, 1]))
    )
    return offsets * h, weights / (2 * h)


def exact_derivative(
    student: Any,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    velocity: Tensor,
    condition: Condition,
    context: Context,
    precision: str,
) -> Tensor:
    """``dU/dt`` along (velocity, dr = 0, dt = 1), by forward-mode differentiation.

    Args:
        student: ``student(x, t, condition, duration=t - r)``, the average velocity.
        x: states ``(B, *sample)`` at times t ``(B,)``.
        t: see x.
        r: the intervals' ends ``(B,)``.
        velocity: dx/dt ``(B, *sample)``.
        condition: the samples' conditions.
        context: the training step's.
        precision: of the products in it.
    """

    def average(x: Tensor, t: Tensor) -> Tensor:
        return student(x, t, condition, duration=t - r)

    return context.jvp(average, (x, t), (velocity, torch.ones_like(t)), precision)[1]


def differenced(
    student: Any,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    velocity: Tensor,
    condition: Condition,
    context: Context,
    precision: str,
    step: float,
) -> Tensor:
    """The same by finite differences of ``step`` in t: see :func:`difference`."""
    offsets, weights = difference(t, t - r, step)
    row, point = weights.nonzero(as_tuple=True)
    offset = offsets[row, point]
    state, at = x[row] + flow.expand(offset, x) * velocity[row], t[row] + offset
    with torch.no_grad(), context.products(precision):
        found = student(state, at, condition[row], duration=at - r[row])
    values = x.new_zeros(*weights.shape, *x.shape[1:])
    values[row, point] = found
    return (flow.expand(weights, values) * values).sum(1)


def end_derivative(
    student: Any,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    condition: Condition,
    context: Context,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """U and ``dU/dr`` at fixed x and t: a derivative in one number a row."""

    def average(r: Tensor) -> Tensor:
        return student(x, t, condition, duration=t - r)

    return context.jvp(average, (r,), (torch.ones_like(r),), precision)


def differenced_end(
    student: Any, x: Tensor, t: Tensor, r: Tensor, condition: Condition, step: float
) -> Tensor:
    """``dX/dr`` of the map's end ``X(r) = x - (t - r) U(x, t, r)``, of two values, with gradient.

    They are at r - step and r + step, and where these lie outside [0, t] at its ends: there the
    error is of first order, elsewhere of second. Arguments are those of :func:`end_derivative`.
    """
    low, high = (r - step).clamp(min=0), torch.minimum(r + step, t)
    start, ends = torch.cat([t, t]), torch.cat([low, high])
    state, both = torch.cat([x, x]), condition.cat(condition)
    found = student(state, start, both, duration=start - ends)
    below, above = (flow.expand(start - ends, x) * found).chunk(2)
    return (below - above) / flow.expand(high - low, x)


def normalised(direction: Tensor, floor: float) -> Tensor:
    """Directions ``(B, *sample)`` divided by their norms and a floor."""
    norm = direction.flatten(1).norm(dim=1)
    return direction / flow.expand(norm + floor, direction)


def ramp(progress: float, share: float) -> float:
    """How much of a derivative counts, from 0 to 1 over the first ``share`` of a training."""
    return min(progress / share, 1.0) if share else 1.0
