"""Student's t distribution: tails and quantiles, accurate far out, without scipy."""

from __future__ import annotations

import math
from functools import cache

_TINY = 1e-300
_TERMS = 500


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / ...)) of the incomplete beta function (Abramowitz & Stegun 26.5.8).

    Evaluated from the front by Lentz's method.
    """
    value, c, d = 1.0, 1.0, 0.0
    for i in range(1, _TERMS):
        m = i // 2
        if i % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 + term * d, 1.0 + term / c
        d = 1.0 / (d if abs(d) > _TINY else _TINY)
        c = c if abs(c) > _TINY else _TINY
        value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return 1.0 / value


def _incomplete_beta(x: float, y: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b); y = 1 - x, given so as not to cancel."""
    if x == 0.0 or y == 0.0:
        return float(y == 0.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(y, x, b, a)
    front = a * math.log(x) + b * math.log(y)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) / a * _beta_fraction(x, a, b)


def two_sided(t: float, dof: float) -> float:
    """P(|T| > |t|) for T with ``dof`` degrees of freedom (Abramowitz & Stegun 26.7.1)."""
    whole = dof + t * t
    return _incomplete_beta(dof / whole, t * t / whole, dof / 2.0, 0.5)


@cache
def quantile(confidence: float, dof: float) -> float:
    """t with P(|T| < t) = ``confidence``, by bisection."""
    low, high = 0.0, 1.0
    while two_sided(high, dof) > 1.0 - confidence:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if two_sided(middle, dof) > 1.0 - confidence else (low, middle)
    return high
