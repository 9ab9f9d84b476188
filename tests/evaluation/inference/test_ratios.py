"""Intervals of ratios to the ceiling: by simulation of Fréchet distances, and by hand."""

import numpy as np
import pytest

from piflow_bench.evaluation.inference.ratios import NO_RATIO, ratio_interval

BLOCKS, N = 20, 300


def distance(x):
    """The Fréchet distance of samples to the standard normal."""
    values = np.linalg.eigvalsh(np.cov(x.T))
    return x.mean(0) @ x.mean(0) + np.sum((np.sqrt(np.maximum(values, 0)) - 1) ** 2)


def jackknifed(x):
    ids = np.arange(len(x)) * BLOCKS // len(x)
    return distance(x), [distance(x[ids != block]) for block in range(BLOCKS)]


def cell(values, replicates, metric="fd"):
    return {
        "metric": metric,
        "value": float(np.mean(values)),
        "by_seed": dict(enumerate(values)),
        "seed_replicates": dict(enumerate(replicates)),
        "replicates": np.mean(replicates, axis=0).tolist(),
    }


def held(dim, shift, alike, seeds=1, seed_sd=0.0, draws=250):
    """Coverage, true ratio, and the ceiling's coefficient of variation.

    ``alike``: correlation of the noise of row and ceiling, whose blocks are the same.
    """
    rng = np.random.default_rng(7)
    found, rows, tops = [], [], []
    for _ in range(draws):
        noise = rng.standard_normal((N, dim))
        top = jackknifed(noise)
        own = []
        for _ in range(seeds):
            x = alike * noise + np.sqrt(1 - alike**2) * rng.standard_normal((N, dim))
            own.append(jackknifed(x + shift * np.exp(seed_sd * rng.standard_normal())))
        row = cell(*zip(*own, strict=True))
        rows.append(row["value"])
        tops.append(top[0])
        found.append(ratio_interval(row, cell([top[0]], [top[1]])))
    truth = np.mean(rows) / np.mean(tops)
    hits = np.mean([each.low <= truth <= each.high for each in found])
    return hits, truth, np.std(tops) / np.mean(tops)


@pytest.mark.parametrize("alike", [0.0, 0.9])
@pytest.mark.parametrize(
    ("dim", "shift", "ratio"),
    [(3, 0.045, 1.3), (3, 0.2, 6.8), (3, 0.41, 26), (9, 0.06, 1.3), (9, 0.26, 6.8), (9, 0.54, 26)],
)
def test_ratio_intervals_hold_the_truth(dim, shift, ratio, alike):
    """Ceilings of two coefficients of variation, about .5 and .19, ratios from 1.3 to 26."""
    hits, truth, cv = held(dim, shift, alike)
    assert truth == pytest.approx(ratio, rel=0.25)
    assert cv == pytest.approx(0.5 if dim == 3 else 0.19, rel=0.2)
    assert 0.92 <= hits <= 0.99, (hits, truth, cv)


def test_seeds_add_their_spread():
    hits, *_ = held(3, 0.4, 0.9, seeds=5, seed_sd=0.3, draws=200)
    assert 0.92 <= hits <= 0.99 + 0.01, hits


def test_by_hand():
    """Two blocks, log ratios -a and a: error sqrt(1/2 * 2 a^2) = a, t(1) = 12.706."""
    a = 0.01
    found = ratio_interval(
        cell([2.0], [[2 * np.exp(-a), 2 * np.exp(a)]], "recall"), cell([1.0], [[1.0, 1.0]])
    )
    ends = (2 * np.exp(-12.7062 * a), 2 * np.exp(12.7062 * a))
    assert (found.low, found.high) == pytest.approx(ends)


@pytest.mark.parametrize("bad", [0.0, -0.1, np.nan])
def test_without_positive_replicates_there_is_no_interval(bad):
    good = cell([2.0], [[2.0, 2.1]])
    broken = cell([1.0], [[1.0, bad]])
    for pair in ((good, broken), (broken, good), (cell([2.0], [[]]), good)):
        found = ratio_interval(*pair)
        assert np.isnan([found.low, found.high]).all() and found.method == NO_RATIO
