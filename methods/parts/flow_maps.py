"""Targets by which flow maps are trained: one family, from flow matching to MeanFlow.

U(x, t, r) is the average velocity from time t to r < t. Its target makes a first step of a share
``a`` of the interval along the velocity v, and asks the map itself for the rest:

    target = a v + (1 - a) U(x - a (t - r) v, t - a (t - r), r).

a = 1 is flow matching on every interval, a = 1/2 a shortcut whose first half is the velocity's,
and a -> 0 MeanFlow's v - (t - r) dU/dt. This is what alpha-Flow (arXiv 2510.20771) and SoFlow
(arXiv 2512.15657) train; SoFlow's residual is (target - U) / a. For a > 0 the map that satisfies it
is that of Euler's steps of shares a, a (1 - a), ...: its gap to the exact one is of order a.
"""

from __future__ import annotations

from math import exp
from typing import Any

import torch
from piflow_methods.parts.stepping import average_velocity
from torch import Tensor

from piflow_bench.api import Condition, Context, flow

RATIO_LAWS = ("sigmoid", "exponential")
STEEPNESS = 25
"""Of the sigmoid, over the part of the training in which the ratio moves (arXiv 2510.20771)."""
ROW_WEIGHTS = ("none", "tangents", "noise")


def ratio_at(
    progress: float, law: str, start: float, end: float, moves: tuple[float, float]
) -> float:
    """The share ``a`` at a share of the training.

    Args:
        progress: in [0, 1].
        law: one of ``RATIO_LAWS``.
        start: its value until ``moves[0]``.
        end: its value from ``moves[1]`` on; positive for "exponential".
        moves: the part of the training in which it moves.
    """
    low, high = moves
    way = min(max((progress - low) / (high - low), 0.0), 1.0)
    if law == "exponential":
        return start * (end / start) ** way
    if way in (0.0, 1.0):
        return (start, end)[int(way)]
    return start + (end - start) / (1 + exp(-STEEPNESS * (way - 0.5)))


def secant_target(
    network: Any,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    velocity: Tensor,
    condition: Condition,
    ratio: float,
) -> Tensor:
    """The target above for states x ``(B, *sample)`` at times t, with ends r ``(B,)``; no gradient.

    The map is asked even where it has no weight, so that calls do not depend on the ratio.
    """
    step = ratio * (t - r)
    with torch.no_grad():
        further = x - flow.expand(step, x) * velocity
        rest = average_velocity(network, further, t - step, r, condition)
    return ratio * velocity + (1 - ratio) * rest


def interval_times(
    context: Context, mean: float, std: float, instant: float, whole: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Times ``t >= r`` ``(B,)``: two logit-normal draws, sorted.

    Args:
        context: draws "times" and "instant".
        mean: of both draws' logits.
        std: of them.
        instant: share of rows with r = t.
        whole: share of rows with r = 0, of the others none.
    """
    draws = (mean + std * context.random.normal("times", (2,))).sigmoid()
    t, r, kind = draws.amax(1), draws.amin(1), context.random.uniform("instant")
    r = torch.where(kind >= 1 - whole, torch.zeros_like(r), r)
    return t, torch.where(kind < instant, t, r)


def row_weight(kind: str, t: Tensor, r: Tensor) -> Tensor:
    """Weights ``(B,)`` of rows by their times.

    "tangents": 1 / sqrt(tan t' - tan r' + 1) in TrigFlow's times, where tan t' = t / (1 - t), for
    data of deviation 1 (TiM, arXiv 2509.04394): 1 where r = t. "noise": t sqrt(1 - t) (AnyFlow,
    arXiv 2605.13724).
    """
    if kind == "tangents":
        a, b = ((1 - time).clamp(min=1e-6) for time in (t, r))
        return (t / a - r / b + 1).rsqrt()
    if kind == "noise":
        return t * (1 - t).sqrt()
    return torch.ones_like(t)


def adaptive_loss(
    error: Tensor, power: float, floor: float, weight: Tensor | None = None
) -> Tensor:
    """``mean_B w |e|^2 / sg(|e|^2 + c)^p`` over squared norms of errors ``(B, *sample)``."""
    squared = error.flatten(1).square().sum(1)
    rows = squared / (squared.detach() + floor) ** power
    return (rows if weight is None else weight * rows).mean()
