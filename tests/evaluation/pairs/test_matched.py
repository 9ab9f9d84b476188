"""Recall at one precision: against brute force, and what a trade-off cannot do to it."""

import numpy as np
import pytest

from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.pairs import tiles
from piflow_bench.evaluation.pairs.matched import PART, SEED
from piflow_bench.evaluation.uncertainty import jackknife_error

K = 3


@pytest.fixture(params=["float64 strips", "float32 strips"], autouse=True)
def strips(request, monkeypatch):
    if request.param == "float32 strips":
        monkeypatch.setattr(tiles, "_FLOAT64_PAIRS", 0)


def score(x, y, name="matched_recall", **settings):
    (found,) = evaluate_with_replicates(x, y, [name], k=K, **settings)
    return found


def distances(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def radii(z):
    d = distances(z, z)
    np.fill_diagonal(d, np.inf)
    return np.sort(d, axis=1)[:, K - 1]


def recall(x, y):
    return (distances(x, y) <= radii(x)[:, None]).any(0).mean()


def dealt(x, y):
    """The groups of precise samples, dealt as stated: a fixed draw, whole groups alone."""
    precise = np.flatnonzero((distances(x, y) <= radii(y)[None]).any(1))
    order = np.random.RandomState(SEED).permutation(precise)
    size = len(x) // PART
    return order[: len(order) // size * size].reshape(-1, size)


def sets(seed, n=400, m=300, d=3):
    r = np.random.default_rng(seed)
    x, y = r.normal(size=(n, d)), r.normal(size=(m, d))
    x[r.random(n) < 0.3] *= 3
    return x, y


def test_it_is_the_mean_recall_of_groups_of_precise_samples():
    x, y = sets(0)
    groups = dealt(x, y)
    assert 5 <= len(groups) < PART, "some samples are not precise"
    expected = np.mean([recall(x[g], y) for g in groups])
    assert score(x, y).value == pytest.approx(expected, abs=1e-12)


def test_replicates_leave_a_block_out_of_every_group():
    x, y = sets(1)
    blocks = np.arange(len(x)) % 8
    found = score(x, y, block_ids=blocks)
    groups = dealt(x, y)
    for b in range(8):
        expected = np.mean([recall(x[g[blocks[g] != b]], y) for g in groups])
        assert found.replicates[b] == pytest.approx(expected, abs=1e-12)


def apart(spoil):
    """What spoiling 40 % of the samples adds to recall and to this, ``(12, 2)``."""
    found = []
    for seed in range(12):
        r = np.random.default_rng(seed)
        y, x = r.normal(size=(500, 8)), r.normal(size=(500, 8))
        worse = r.random(500) < 0.4
        bad = np.where(worse[:, None], spoil(x), x)
        names = ("recall", "matched_recall")
        values = [[score(z, y, n, intervals=False).value for n in names] for z in (x, bad)]
        found.append(np.subtract(*values[::-1]))
    return np.array(found)


def test_samples_outside_change_nothing():
    """A null case: what is inside is as it was, and so is the number that is compared."""
    gain = apart(lambda x: x + 50.0)[:, 1]
    assert abs(gain.mean()) < 2.5 * gain.std(ddof=1) / np.sqrt(len(gain))


def test_noise_that_raises_recall_hardly_raises_this():
    gain = apart(lambda x: 4 * x)
    assert gain[:, 0].mean() > 0.03 and abs(gain[:, 1].mean()) < gain[:, 0].mean() / 4


def test_precision_that_is_bought_with_diversity_does_not_raise_it():
    r = np.random.default_rng(3)
    y, x = r.normal(size=(600, 4)), r.normal(size=(600, 4))
    values = [score(c * x, y, intervals=False).value for c in (1.0, 0.8, 0.6)]
    precise = [score(c * x, y, "precision", intervals=False).value for c in (1.0, 0.8, 0.6)]
    assert precise == sorted(precise) and values == sorted(values, reverse=True)
    assert values[0] - values[1] > 0.1 < values[1] - values[2]


def test_the_intervals_width_is_that_of_the_values():
    values, errors = [], []
    for seed in range(60):
        r = np.random.default_rng(100 + seed)
        y, x = np.random.default_rng(7).normal(size=(300, 3)), 0.8 * r.normal(size=(400, 3))
        found = score(x, y)
        values.append(found.value)
        errors.append(jackknife_error(found.replicates))
    assert 0.85 < np.mean(errors) / np.std(values, ddof=1) < 1.6


def test_too_few_precise_samples_have_no_value():
    x, y = sets(2)
    x[20:] += 100.0
    assert 0 < score(x, y, "precision").value < 1 / PART
    found = score(x, y)
    assert np.isnan(found.value) and np.isnan(found.replicates).all() and found.n == len(x)
    few = score(*(z[:30] for z in sets(3)))
    assert np.isnan(few.value), "a group of three has no third neighbour"
