"""Intervals and tests over training seeds, with the sampling noise that seeds share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piflow_bench.evaluation.uncertainty import (
    Difference,
    Interval,
    jackknife_error,
    t_difference,
    t_quantile,
    unknown,
)

OVER_SEEDS = "expectation over training seeds"


def _split_variance(replicates: np.ndarray) -> tuple[float, float]:
    """Jackknife variance of the mean over seeds, and the seeds' own share of it.

    With the jackknife variance V of the mean over S seeds and the mean v of the seeds' own, the
    own noise adds (v - V) / (S - 1): unbiased where it is independent. A single seed, or what was
    never trained, has no spread that could hold its noise: nothing counts as its own.
    """
    seeds, blocks = replicates.shape
    together = jackknife_error(replicates.mean(axis=0)) ** 2
    if seeds < 2:
        return together, 0.0
    apart = float(replicates.var(axis=1).mean()) * (blocks - 1)
    return together, (apart - together) / (seeds - 1)


def shared_variance(replicates: np.ndarray) -> float:
    """What all training seeds share of the sampling variance of their mean.

    Trainings of one recipe are sampled from the same noise, and answer to it alike in part. The
    spread over seeds cannot see that part, so that an interval of seeds alone is too short for an
    expectation over noise.

    Args:
        replicates: delete-one-block values ``(seeds, blocks)`` of every seed, the same blocks.

    Returns:
        The jackknife variance of the mean without the seeds' own noise; at least 0.
    """
    together, own = _split_variance(np.asarray(replicates, dtype=np.float64))
    return max(together - own, 0.0)


def _usable(replicates: np.ndarray | None) -> bool:
    if replicates is None or replicates.ndim != 2 or replicates.shape[1] < 2:
        return False
    return bool(np.isfinite(replicates).all())


def _over_seeds(values: np.ndarray, replicates: np.ndarray | None) -> float:
    """Standard error of the mean over seeds ``(s,)``, the noise that they share included."""
    between = float(values.var(ddof=1)) / len(values)
    if replicates is None or not _usable(replicates):
        return float(np.sqrt(between))
    return float(np.sqrt(between + shared_variance(replicates)))


def seed_interval(
    values: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    replicates: np.ndarray | None = None,
) -> Interval:
    """Student's t interval of the mean over training seeds; NaN bounds for a single seed.

    ``replicates`` ``(seeds, blocks)``: delete-one-block values of every seed; with them the
    interval holds also the sampling noise that all seeds share. The degrees of freedom stay those
    of the seeds: Satterthwaite's would rise where the seeds' spread is small by chance, and with
    them the share of false discoveries.
    """
    v = np.asarray(values, dtype=np.float64)
    if len(v) == 0:
        raise ValueError("an interval over seeds needs at least one value")
    low = high = float("nan")
    if len(v) >= 2:
        half = t_quantile(confidence, len(v) - 1) * _over_seeds(v, replicates)
        low, high = float(v.mean() - half), float(v.mean() + half)
    return Interval(float(v.mean()), low, high, len(v), "t over seeds", OVER_SEEDS)


def paired_seed_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    replicates: np.ndarray | None = None,
) -> Difference:
    """Paired t of a - b over training seeds; entry i of both sides is the same seed.

    For one recipe trained twice, whose seeds repeat batches, weights and noise; two recipes are
    compared by ``seed_difference``. ``replicates`` ``(seeds, blocks)`` of the differences: see
    ``seed_interval``.
    """
    both = np.array([a, b], dtype=np.float64)
    d = both[0] - both[1]
    if len(d) < 2:
        return unknown(float(d.mean()) if len(d) else float("nan"), len(d))
    error = _over_seeds(d, replicates)
    scale = float(np.abs(both).max())
    return t_difference(float(d.mean()), error, len(d) - 1, len(d), confidence, scale)


def seed_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    replicates: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> Difference:
    """Welch's t of the means over training seeds, a - b, with the sampling noise they share.

    Two recipes are not paired by train seed: their results at one seed do not go together, and
    pairing would leave S - 1 of up to 2 S - 2 degrees of freedom. What does go together is the
    noise of sampling, whose blocks are paired: the squared error is var(a) / S_a + var(b) / S_b
    and the jackknife variance of the difference less the seeds' own noise, which the spreads hold
    already.

    The degrees of freedom are Satterthwaite's for the spreads, less one and at least those of the
    smaller side. Less one, for they are overestimated just where a spread is small by chance: with
    five seeds, ten variants and spreads that differ fourfold, Holm's false reports are 6 in 100
    instead of 9, with spreads that differ twofold 3 instead of 5 (tests/evaluation/inference).

    Args:
        a, b: one value per training seed; a single one was not trained and adds no spread.
        replicates: delete-one-block values ``(seeds, blocks)`` of either side, the same blocks.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (a, b)]
    value = float(sides[0].mean() - sides[1].mean())
    trained = [side for side in sides if len(side) > 1]
    units = sum(map(len, trained))
    if not trained or not np.isfinite(value):
        return unknown(value, units)
    spreads = np.array([side.var(ddof=1) / len(side) for side in trained])
    each = np.array([len(side) - 1 for side in trained])
    dof = float(each.min())
    if len(trained) > 1 and spreads.sum() > 0:
        share = spreads / spreads.sum()
        dof = max(dof, 1.0 / float((share**2 / each).sum()) - 1.0)
    error = float(np.sqrt(spreads.sum() + _shared_between(*replicates)))
    scale = float(max(np.abs(side).max() for side in sides))
    return t_difference(value, error, dof, units, confidence, scale)


def _shared_between(a: np.ndarray | None, b: np.ndarray | None) -> float:
    """Sampling variance of a difference of means over seeds beyond the seeds' own; at least 0."""
    if a is None or b is None or not (_usable(a) and _usable(b)) or a.shape[1] != b.shape[1]:
        return 0.0
    together = jackknife_error(a.mean(axis=0) - b.mean(axis=0)) ** 2
    return max(together - _split_variance(a)[1] - _split_variance(b)[1], 0.0)
