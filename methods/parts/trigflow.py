"""Consistency in continuous time, in the variables of TrigFlow (arXiv 2410.11081), exactly.

TrigFlow mixes by an angle: x = cos(a) x0 + sin(a) z with z = s noise, where s is the data's
deviation and a in [0, pi / 2]. The flow's state at time t is another multiple of the same mixture,

    tan(a) = t / ((1 - t) s),   x_trig = s x / n,   n = s / (cos(a) + s sin(a)),

so that a network of the flow's velocity u is one of TrigFlow's G (which the paper writes s F):

    G = n u - x (t - (1 - t) s^2) / n,   x0 = cos(a) x_trig - sin(a) G.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from piflow_bench.api import flow


def angle(t: Tensor, deviation: float) -> Tensor:
    """The angle of a flow time, elementwise."""
    return t.atan2((1 - t) * deviation)


def flow_time(a: Tensor, deviation: float) -> Tensor:
    """The flow time of an angle."""
    return deviation * a.sin() / (a.cos() + deviation * a.sin())


def mixture(x: Tensor, a: Tensor, deviation: float) -> Tensor:
    """TrigFlow's state of the flow's states ``(B, *sample)`` at the times of angles ``(B,)``."""
    return x * flow.expand(a.cos() + deviation * a.sin(), x)


def trig_velocity(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, a: Tensor, deviation: float
) -> Tensor:
    """G of TrigFlow's states x ``(B, *sample)`` at angles ``(B,)``, from ``velocity(x, t)``."""
    t = flow_time(a, deviation)
    n = deviation / (a.cos() + deviation * a.sin())
    state = x * flow.expand(n / deviation, x)
    pull = (t - (1 - t) * deviation**2) / n
    return flow.expand(n, x) * velocity(state, t) - flow.expand(pull, x) * state


def tangent(
    found: Tensor,
    slope: Tensor,
    moved: Tensor,
    x: Tensor,
    a: Tensor,
    ramp: float,
    rooted: bool = False,
) -> Tensor:
    """``cos(a) df/da`` along a path, of the estimate of the data f: 0 where it is consistent.

    Args:
        found: G ``(B, *sample)`` of the network.
        slope: ``cos(a) sin(a) dG/da`` along the path.
        moved: dx/da along the path.
        x: TrigFlow's states.
        a: their angles ``(B,)``.
        ramp: weight r of what has a derivative in it, 0 to 1, raised as a training begins.
        rooted: the first part's factor cos^2 a is cos a sqrt(1 - r^2 sin^2 a), which is the same
            at r = 1 (arXiv 2510.08431).
    """
    cos, both = flow.expand(a.cos(), x), flow.expand(a.cos() * a.sin(), x)
    other = flow.expand((1 - (ramp * a.sin()) ** 2).sqrt(), x) if rooted else cos
    return -cos * other * (found - moved) - ramp * (both * x + slope)
