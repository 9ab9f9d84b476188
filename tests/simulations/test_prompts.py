"""Diversity within prompts: its intervals hold the chance of which prompts were drawn."""

import numpy as np
import pytest

from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.laws import BY_PROMPT

PROMPTS, SEEDS, DIMENSIONS = 60, 4, 6
METRICS = ["pairwise_within", "vendi_within"]


def features(rng, prompts):
    """Samples of prompts, each with a centre and a spread of its own ``(prompts, SEEDS, d)``."""
    centre = rng.normal(size=(prompts, 1, DIMENSIONS))
    spread = rng.uniform(0.1, 1.5, size=(prompts, 1, 1))
    return centre + spread * rng.normal(size=(prompts, SEEDS, DIMENSIONS))


def measured(x, law=BY_PROMPT):
    rows = x.reshape(-1, DIMENSIONS)
    labels = np.repeat(np.arange(len(x)), SEEDS)
    extras = Extras(labels=labels, design=Design.of(len(rows), labels, law))
    return evaluate_with_replicates(rows, None, METRICS, extras=extras)


def by_force(x):
    """The same two by visiting every pair, and every kernel's eigenvalues."""
    z = x / np.linalg.norm(x, axis=2, keepdims=True)
    kernel = z @ z.transpose(0, 2, 1)
    pairs = (1 - kernel)[:, *np.triu_indices(SEEDS, 1)].mean(1)
    values = np.clip(np.linalg.eigvalsh(kernel / SEEDS), 1e-15, None)
    vendi = np.exp(-(values * np.log(values)).sum(1))
    return pairs.mean(), vendi.mean()


def test_values_are_those_by_force():
    x = features(np.random.default_rng(0), 12)
    assert [v.value for v in measured(x)] == pytest.approx(by_force(x), rel=1e-6)


def test_known_distances_give_known_values():
    x = np.zeros((3, SEEDS, DIMENSIONS))
    x[0, :, 0] = 1  # All alike: no distance, one effective sample.
    x[1, np.arange(SEEDS), np.arange(SEEDS)] = 1  # All at right angles: distance 1, four.
    x[2, :2, 0], x[2, 2:, 1] = 1, 1  # Two pairs: 4 of 6 pairs at distance 1, two.
    pairwise, vendi = (v.value for v in measured(x))
    assert pairwise == pytest.approx((0 + 1 + 4 / 6) / 3)
    assert vendi == pytest.approx((1 + 4 + 2) / 3)


def test_intervals_cover_what_all_prompts_would_give():
    rng = np.random.default_rng(1)
    truth = dict(zip(METRICS, by_force(features(rng, 40_000)), strict=True))
    runs, inside = 300, dict.fromkeys(METRICS, 0)
    for _ in range(runs):
        for v in measured(features(rng, PROMPTS)):
            inside[v.metric] += v.interval.low <= truth[v.metric] <= v.interval.high
    for metric, count in inside.items():
        assert 0.92 <= count / runs <= 0.99, (metric, count / runs)


def test_blocks_that_cut_prompts_would_not():
    """The null of the test above: of samples dealt one by one the intervals are another's."""
    rng = np.random.default_rng(2)
    truth = by_force(features(rng, 40_000))[0]
    runs, inside = 120, 0
    for _ in range(runs):
        v = measured(features(rng, PROMPTS), law="balanced")[0]
        inside += v.interval.low <= truth <= v.interval.high
    assert inside / runs < 0.9
