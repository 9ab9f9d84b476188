"""Intervals and tests: what the noise of sampling and of training allows to be said.

The bootstrap is used for means of per-sample scores only: it repeats samples, and repeated samples
bias every statistic of pairs or neighbours. Those get the delete-block jackknife, whose estimand is
the metric's expectation at this n and this fixed reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

JACKKNIFE = "delete-block jackknife over blocks"
AT_THIS_N = "expectation at this n and this reference"


def percent(confidence: float) -> str:
    """A share of 1 in per cent, with every digit that was asked for: "95 %", "99.5 %"."""
    return f"{100 * confidence:.10g} %"


@dataclass(frozen=True)
class Interval:
    """A value with its interval; ``n`` counts the units it rests on (blocks, seeds, samples)."""

    value: float
    low: float
    high: float
    n: int
    method: str
    """Names the units that ``n`` counts: "delete-block jackknife over blocks"."""
    estimand: str

    @property
    def how(self) -> str:
        """The method with its number of units; "none" where the bounds are unknown."""
        if not np.isfinite([self.low, self.high]).all():
            return "none"
        method, _, units = self.method.rpartition(" over ")
        return f"{method} over {self.n} {units}"


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b, its interval, the two-sided p-value, and the units behind it."""

    difference: float
    low: float
    high: float
    p: float
    n: int


def t_quantile(confidence: float, dof: float) -> float:
    """t with P(|T| < t) = ``confidence`` at ``dof`` degrees of freedom."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + confidence / 2))


def two_sided(t: float, dof: float) -> float:
    """P(|T| > |t|) for T with ``dof`` degrees of freedom, accurate far out."""
    from scipy.special import betainc

    return float(betainc(dof / 2, 0.5, dof / (dof + t * t)))


def unknown(value: float, units: int) -> Difference:
    """A difference of which nothing but its value can be said."""
    return Difference(value, float("nan"), float("nan"), float("nan"), units)


FUZZ = 1e-12
"""Share of the compared values' size up to which a spread is rounding: it stands for none."""


def t_difference(
    value: float, error: float, dof: float, units: int, conf: float, scale: float
) -> Difference:
    """Student's t of a difference with a standard error; ``scale`` is the compared values' size."""
    if dof < 1 or not np.isfinite([value, error]).all():
        return unknown(value, units)
    if error <= FUZZ * scale:
        # Counts jump: replicates that agree say that none is near a jump, not that chance is nil.
        same = abs(value) <= FUZZ * scale
        return Difference(value, value, value, 1.0, units) if same else unknown(value, units)
    half = t_quantile(conf, dof) * error
    p = two_sided(value / error, dof)
    return Difference(value, value - half, value + half, p, units)


def jackknife_error(replicates: Sequence[float] | np.ndarray) -> float:
    """Standard error from delete-one-block values (Quenouille, Tukey): sqrt((g-1)/g sum dev^2)."""
    r = np.asarray(replicates, dtype=np.float64)
    g = len(r)
    return float(np.sqrt((g - 1) / g * np.sum((r - r.mean()) ** 2)))


def jackknife_interval(
    value: float, replicates: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Interval:
    """Delete-block jackknife interval, t with g - 1 degrees of freedom.

    Centred on ``value``: the shift that deletion adds to a metric biased at finite n is common to
    all replicates and does not widen it. Fewer than 2 or non-finite replicates give NaN bounds.
    """
    g = len(replicates)
    low = high = float("nan")
    if g >= 2 and np.isfinite(replicates).all():
        half = t_quantile(confidence, g - 1) * jackknife_error(replicates)
        low, high = value - half, value + half
    return Interval(float(value), low, high, g, JACKKNIFE, AT_THIS_N)


def jackknife_difference(
    a_value: float,
    a_replicates: Sequence[float] | np.ndarray,
    b_value: float,
    b_replicates: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
) -> Difference:
    """Paired jackknife of a - b: replicate b of both sides left out the same sample indices."""
    g = len(a_replicates)
    if g != len(b_replicates):
        raise ValueError(f"replicates of {g} and {len(b_replicates)} blocks cannot be paired")
    if g < 2:
        return unknown(float(a_value - b_value), g)
    error = jackknife_error(np.asarray(a_replicates, float) - np.asarray(b_replicates, float))
    scale = max(abs(float(a_value)), abs(float(b_value)))
    return t_difference(float(a_value - b_value), error, g - 1, g, confidence, scale)


@dataclass(frozen=True)
class Replicated:
    """A value and its delete-one-block values ``(g,)``."""

    value: float
    replicates: np.ndarray


def jackknife(
    statistic: Callable[[np.ndarray], float], rows: np.ndarray, blocks: np.ndarray
) -> Replicated:
    """A statistic of rows ``(n, ...)``, and of the rows without each block of ``blocks`` ``(n,)``.

    The plain way, as many evaluations as there are blocks and one more: a sum over rows or pairs is
    had without a block at once. Of one block alone, which is the whole sample, no replicates.
    """
    blocks = np.asarray(blocks)
    count = int(blocks.max()) + 1
    left = [statistic(rows[blocks != b]) for b in range(count)] if count > 1 else []
    return Replicated(float(statistic(rows)), np.array(left, dtype=np.float64))


def mean_with_replicates(scores: np.ndarray, blocks: np.ndarray) -> Replicated:
    """Mean of per-sample scores ``(n,)``, and without each block of ``blocks`` ``(n,)``."""
    sums, sizes = np.bincount(blocks, weights=scores), np.bincount(blocks)
    left = len(blocks) - sizes
    with np.errstate(invalid="ignore", divide="ignore"):
        return Replicated(float(np.mean(scores)), (sums.sum() - sums) / left)


def bootstrap_mean_interval(
    scores: np.ndarray, seed: int = 0, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Percentile bootstrap of the mean of per-sample scores ``(n,)``, seeded."""
    s = np.asarray(scores, dtype=np.float64).ravel()
    if len(s) == 0:
        raise ValueError("a mean needs at least one score")
    rng = np.random.default_rng(seed)
    rows = max(1, 4_000_000 // len(s))
    means = np.concatenate(
        [
            s[rng.integers(0, len(s), (min(rows, resamples - i), len(s)))].mean(axis=1)
            for i in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    estimand = "mean over samples"
    return Interval(
        float(s.mean()), float(low), float(high), len(s), "bootstrap over samples", estimand
    )


def holm(pvalues: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjusted p-values, in the order given; NaN stays and is not counted.

    The adjusted i-th smallest of m is the largest of (m - j + 1) p_j for j <= i, at most 1.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    stepped = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted
