"""Intervals of ratios to a control, with the noise of both parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from piflow_bench.evaluation.inference.cells import stacked
from piflow_bench.evaluation.inference.seeds import seed_interval, shared_variance
from piflow_bench.evaluation.uncertainty import (
    Interval,
    jackknife_error,
    jackknife_interval,
    t_quantile,
)

FRECHET = ("fd", "sfd")
"""Distances whose first-order part vanishes between equal distributions."""
NEAR = 3.0
"""Times the value of two equal distributions below which a Fréchet distance is hardly tested."""
NO_RATIO = "no interval: values or jackknife replicates are missing or not positive"


def ratio_interval(
    cell: Mapping[str, Any], control: Mapping[str, Any], confidence: float = 0.95
) -> Interval:
    """Interval of the ratio of expectations, cell over control; both rows of ``summarise``.

    The jackknife of log(cell / control): both start from the same noise, so the same blocks leave
    both. Over seeds the spread of the cell's logarithms is added, with Satterthwaite's degrees of
    freedom. A Fréchet distance of equal distributions, which the control is by design, is of
    second order in its samples; the jackknife counts such a part twice (Efron & Stein 1981), so
    half of the control's variance is taken off again, of the whole at most a third.
    NaN bounds where logarithms fail (``NO_RATIO``).
    """
    ratio = float(cell["value"] / control["value"])
    nan = float("nan")
    unknown = Interval(ratio, nan, nan, 0, NO_RATIO, "ratio of expectations")
    below = np.asarray(control["replicates"], dtype=float)
    seeds = list(cell["by_seed"].values())
    above = stacked(cell["seed_replicates"], cell["by_seed"])
    if above is None or len(below) < 2 or above.shape[1] != len(below):
        return unknown
    parts = np.concatenate([above.ravel(), below, seeds, [ratio]])
    if not (np.isfinite(parts).all() and parts.min() > 0):
        return unknown
    apart = np.log(above) - np.log(below)
    several = len(seeds) > 1
    between = float(np.log(seeds).var(ddof=1)) / len(seeds) if several else 0.0
    shared = shared_variance(apart) if several else jackknife_error(apart[0]) ** 2
    if cell["metric"] in FRECHET:
        twice = jackknife_error(np.log(below)) ** 2 / 2
        shared = max(shared - twice, shared / 1.5)
    variance = between + shared
    if variance == 0:
        return unknown
    dof = len(below) - 1.0
    if several:
        each = between**2 / (len(seeds) - 1) + shared**2 / dof
        dof = variance**2 / each
    half = t_quantile(confidence, dof) * np.sqrt(variance)
    low, high = ratio * np.exp([-half, half])
    units = len(seeds) if several else len(below)
    how = "t over seeds" if several else "delete-block jackknife over blocks"
    return Interval(ratio, float(low), float(high), units, how, "ratio of expectations")


def mean_ratio(
    cells: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]]
) -> Interval:
    """Mean over several kinds of features of the ratio, cell over control, with its interval.

    All are rows of ``summarise``; the cells are of the same trainings and samples, and so are
    their jackknife blocks. A control without replicates counts as a number without noise.
    """
    seeds = sorted(set.intersection(*(set(cell["by_seed"]) for cell in cells)))
    pairs = list(zip(cells, controls, strict=True))
    values = [np.mean([a["by_seed"][s] / b["value"] for a, b in pairs]) for s in seeds]
    left = [_left(s, pairs) for s in seeds]
    alike = len({len(each) for each in left}) == 1 and len(left[0]) > 1
    if len(seeds) > 1:
        return seed_interval(values, replicates=np.array(left) if alike else None)
    return jackknife_interval(float(np.mean(values)), left[0] if alike else [])


def _left(seed: float, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[float]:
    """The mean ratio of a seed without each block; none where the blocks of some differ."""
    parts = []
    for cell, control in pairs:
        above = np.asarray(cell["seed_replicates"][seed], dtype=float)
        below = np.asarray(control["replicates"], dtype=float)
        parts.append(above / (below if len(below) == len(above) else control["value"]))
    return list(np.mean(parts, axis=0)) if len({len(part) for part in parts}) == 1 else []
