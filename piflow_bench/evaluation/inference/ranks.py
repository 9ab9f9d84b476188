"""Whether two orders of the same competitors agree: Kendall's tau, and what noise makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from piflow_bench.evaluation.uncertainty import Interval, jackknife_error, t_quantile

LEAST = 3
"""Competitors below which a rank correlation says nothing."""
DRAWS = 1000
SEED = 2020
REDRAWN = "percentiles over redraws"
WITHOUT_A_SEED = "delete-one-seed jackknife over seeds"
Cell = Mapping[str, Any]
"""A row of ``cells.summarise``."""


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (Kendall 1945) along the last axis of ``(..., s)``; ``(...)``, -1 to 1.

    NaN where one side is tied throughout.
    """
    first, second = np.triu_indices(a.shape[-1], 1)
    x, y = (np.sign(v[..., first] - v[..., second]) for v in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt(np.abs(x).sum(-1) * np.abs(y).sum(-1))


def redraws(competitors: Sequence[Sequence[Cell]], draws: int = DRAWS) -> np.ndarray:
    """Values ``(draws, s, c)`` as other trainings and other samples would have given them.

    Each of the s competitors has c cells, which are of the same trainings. Train seeds are drawn
    anew with replacement, for each competitor by itself (bootstrap, its spread widened by
    S / (S - 1) for S seeds), and blocks of samples for all together, to first order: a draw that
    has a block w times adds (w - 1) times what the jackknife says of it.
    """
    random = np.random.default_rng(SEED)
    weights: dict[int, np.ndarray] = {}
    found = np.empty((draws, len(competitors), len(competitors[0])))
    for i, cells in enumerate(competitors):
        seeds = sorted(set.intersection(*(set(cell["by_seed"]) for cell in cells)))
        several = len(seeds) > 1
        picked = random.integers(len(seeds), size=(draws, len(seeds))) if several else None
        for j, cell in enumerate(cells):
            drawn = np.full(draws, float(cell["value"]))
            if picked is not None:
                values = np.array([cell["by_seed"][seed] for seed in seeds])
                widened = np.sqrt(len(seeds) / (len(seeds) - 1))
                drawn += widened * (values[picked].mean(axis=1) - values.mean())
            left = np.asarray(cell["replicates"], dtype=float)
            g = len(left)
            if g > 1 and np.isfinite(left).all():
                if g not in weights:
                    # Apart from the seeds' draws, so that they do not depend on who else is there.
                    blocks = np.random.default_rng([SEED, g])
                    weights[g] = blocks.multinomial(g, np.full(g, 1 / g), size=draws) - 1.0
                drawn += weights[g] @ ((g - 1) / g * (left.mean() - left))
            found[:, i, j] = drawn
    return found


def redrawn_tau(a: np.ndarray, b: np.ndarray, drawn: tuple[np.ndarray, np.ndarray]) -> Interval:
    """Tau between two orders ``(s,)``, with percentiles of it over redraws ``(draws, s)`` of both.

    A redraw has the noise of the values and as much again, so it finds less agreement than there
    is: the interval leans to low values. No bounds where no redraw differs from another.
    """
    value = float(kendall(a, b))
    low = high = float("nan")
    moving = any(np.ptp(side, axis=0).any() for side in drawn)
    taus = kendall(*drawn)
    taus = taus[np.isfinite(taus)]
    if moving and len(taus):
        low, high = map(float, np.quantile(taus, [0.025, 0.975]))
    return Interval(value, low, high, len(taus), REDRAWN, "tau of the expected values")


def tau_of_seeds(values: np.ndarray) -> Interval:
    """Mean tau between the orders that two train seeds give; ``values`` ``(seeds, s)``.

    Over all pairs of seeds; the interval leaves out one seed at a time (t with one degree of
    freedom less than there are seeds). No bounds for fewer than three seeds, nor where all pairs
    agree alike: that says nothing of other seeds.
    """
    seeds = len(values)
    taus = {
        pair: float(kendall(values[pair[0]], values[pair[1]]))
        for pair in combinations(range(seeds), 2)
    }
    value = float(np.mean(list(taus.values())))
    low = high = float("nan")
    if seeds >= 3:
        without = np.array(
            [np.mean([t for pair, t in taus.items() if s not in pair]) for s in range(seeds)]
        )
        error = jackknife_error(without)
        if error > 1e-12:
            half = t_quantile(0.95, seeds - 1) * error
            low, high = max(value - half, -1.0), min(value + half, 1.0)
    return Interval(value, low, high, seeds, WITHOUT_A_SEED, "mean tau of two train seeds")


def by_seed(cells: Sequence[Cell]) -> np.ndarray | None:
    """Values ``(seeds, s)`` of competitors by the train seeds that all have; None below two."""
    shared = sorted(set.intersection(*(set(cell["by_seed"]) for cell in cells)) - {-1.0})
    if len(shared) < 2:
        return None
    return np.array([[cell["by_seed"][seed] for cell in cells] for seed in shared])
