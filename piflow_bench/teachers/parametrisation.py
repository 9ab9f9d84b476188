r"""What a network predicts, as the velocity of the flow.

For every schedule and prediction the flow's velocity is linear in the network's output F,

.. math:: u(x, t) = a(t)\,x + b(t)\,F(c(t)\,x,\ \mathrm{time}(t)),

and :func:`coefficients` gives c, time, a and b. As eps and x0 are the same in every process, a and
b are functions of flow time alone; the schedule decides the input's scale c and the time.

================= ================================== ======================= ===========
prediction        F                                  a                       b
================= ================================== ======================= ===========
velocity          eps - x0                           0                       1
reversed_velocity x0 - eps (SiT: it points to data)  0                       -1
eps               eps                                -1 / (1 - t)            1 / (1 - t)
x0                x0                                 1 / t                   -1 / t
v                 (alpha eps - sigma x0) / r         (2 t - 1) / n^2         1 / n
edm               (x0 - c_skip z) / c_out, at c_in z (t - s^2 (1 - t)) / q^2 -s / q
================= ================================== ======================= ===========

with r = sqrt(alpha^2 + sigma^2), which is 1 for a VP schedule, where v is that of Salimans and Ho
(arXiv 2202.00512), n = sqrt((1 - t)^2 + t^2), s = sigma_data and q = sqrt(t^2 + s^2 (1 - t)^2). For
edm (arXiv 2206.00364, table 1, of z with alpha = 1) the divisions of c_in, c_skip and c_out by
alpha and t are done by hand, so that nothing cancels at either end; its input ``c_in z`` is x / q.
The other inputs are z. eps divides by 1 - t = alpha / (alpha + sigma), and x0 by t: a network's
errors in them grow by these factors, whoever computes.

Covered and beyond. A pair covers its schedule's times, but eps only up to 1 - LEAST and x0 only
from LEAST. Beyond, F is asked at the nearest covered time, and what changes least there is held:

- above t_high the v, of the state ``x n(t_high) / n(t)``, which is x at the noise of t_high: unit
  noise at t = 1 is unit noise to a VP network at its last index, as in its training. Exact for
  data N(0, I); an error of second order in 1 - t_high.
- below t_low the score, of ``x (1 - t_low) / (1 - t)``, so that data keep their scale. eps falls
  with sigma: u(x, 0) = -x, the exact limit for data with a density, and b = 0. An error of second
  order in t_low where the density is smooth at that scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from piflow_bench import flow
from piflow_bench.errors import UserError, nearest
from piflow_bench.teachers.schedules import F64, Schedule, norm

PREDICTIONS = ("velocity", "reversed_velocity", "eps", "x0", "v", "edm")
LEAST = 5e-3
"""The least 1 - t by which eps, and the least t by which x0 is divided."""


class Coefficients(NamedTuple):
    """``u = a x + b F(scale * x, time)``; each float64 of the shape of t."""

    scale: Tensor
    time: Tensor
    a: Tensor
    b: Tensor


def covers(
    schedule: Schedule, prediction: str, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Flow times (t_low, t_high) at which the pair's velocity is exactly the network's."""
    low, high = schedule.covers(device)
    if prediction == "x0":
        low = low.clamp(min=LEAST)
    if prediction == "eps":
        high = high.clamp(max=1 - LEAST)
    return low, high


def coefficients(
    schedule: Schedule, prediction: str, t: Tensor, sigma_data: float = 0.5
) -> Coefficients:
    """Input scale, network time, a and b at flow times t in [0, 1], of any shape.

    ``sigma_data`` is edm's. An unknown prediction is a :class:`UserError`.
    """
    t = t.to(F64)
    low, high = covers(schedule, prediction, t.device)
    at = t.clamp(low, high)
    scale, a, b = _covered(schedule, prediction, at, sigma_data)

    n, n_at = norm(t), norm(at)
    back = n_at / n
    a_above = (2 * t - 1) / n**2 + back**2 * (a - (2 * at - 1) / n_at**2)

    # Kept off t = 1 and off division by a t_low of 0, which are not below anything.
    under = torch.minimum(t, low)
    up = (1 - low) / (1 - under)
    noise = up * under / low.clamp(min=1e-300)
    a_below = (noise * up * (1 + (1 - low) * a) - 1) / (1 - under)

    above, below = t > high, t < low

    def choose(beyond_high: Tensor, beyond_low: Tensor, covered: Tensor) -> Tensor:
        return torch.where(above, beyond_high, torch.where(below, beyond_low, covered))

    return Coefficients(
        choose(back * scale, up * scale, scale),
        schedule.time(at),
        choose(a_above, a_below, a),
        choose(back * b, noise * up * b, b),
    )


def _covered(
    schedule: Schedule, prediction: str, t: Tensor, sigma_data: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Input scale, a and b at covered times."""
    scale, one = schedule.scale(t), torch.ones_like(t)
    match prediction:
        case "velocity":
            return scale, torch.zeros_like(t), one
        case "reversed_velocity":
            return scale, torch.zeros_like(t), -one
        case "eps":
            return scale, -1 / (1 - t), 1 / (1 - t)
        case "x0":
            return scale, 1 / t, -1 / t
        case "v":
            n = norm(t)
            return scale, (2 * t - 1) / n**2, 1 / n
        case "edm":
            variance = sigma_data**2
            q = torch.hypot(t, sigma_data * (1 - t))
            return 1 / q, (t - variance * (1 - t)) / q**2, -sigma_data / q
    raise UserError(f"prediction={prediction}: unknown; {nearest(prediction, list(PREDICTIONS))}")


def velocity_field(
    network: Callable[..., Tensor], schedule: Schedule, prediction: str, sigma_data: float = 0.5
) -> Callable[..., Tensor]:
    """The flow's velocity ``field(x, t, *more)`` of ``network(z, time, *more)``.

    x is ``(B, *sample)``, t ``(B,)``, and ``more`` a condition and whatever else the network takes.
    The velocity has x's shape and precision. The network is given z in x's precision and its time
    ``(B,)`` in float32, or float64 where x is (half precisions have no index 999). It must return
    x's shape: where it predicts variances too, the caller takes its mean alone.
    """

    def field(x: Tensor, t: Tensor, *more: Any) -> Tensor:
        precision = torch.promote_types(x.dtype, torch.float32)
        c = coefficients(schedule, prediction, t, sigma_data)
        wide = x.to(precision)
        z = (flow.expand(c.scale, wide) * wide).to(x.dtype)
        output = network(z, c.time.to(precision), *more).to(precision)
        return (flow.expand(c.a, wide) * wide + flow.expand(c.b, wide) * output).to(x.dtype)

    return field
