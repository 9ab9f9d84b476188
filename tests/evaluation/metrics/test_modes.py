"""Coverage of the modes of a known mixture, by hand."""

import numpy as np
import pytest

from piflow_bench.evaluation.metrics.modes import (
    mode_coverage,
    mode_members,
    mode_replicates,
    rare_modes,
)

MEANS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
WEIGHTS = np.array([0.5, 0.3, 0.2])


def samples(*counts, stray=0):
    at = np.repeat(MEANS, counts, axis=0)
    return np.concatenate([at, np.full((stray, 2), 50.0)])


def test_perfect_samples():
    found = mode_coverage(samples(50, 30, 20), MEANS, 1.0, WEIGHTS)
    assert (found.share, found.covered) == (1.0, 3)
    assert found.mass == pytest.approx(1) and found.variation == pytest.approx(0)


def test_a_quarter_of_the_expected_count_covers():
    found = mode_coverage(samples(85, 10, 5), MEANS, 1.0, WEIGHTS)
    assert found.covered == 3
    found = mode_coverage(samples(89, 7, 4), MEANS, 1.0, WEIGHTS)
    assert found.covered == 1 and found.mass == pytest.approx(0.5)
    assert found.variation == pytest.approx(0.39)


def test_a_rare_mode_needs_one_sample():
    weights = np.array([0.6, 0.398, 0.002])
    assert mode_coverage(samples(60, 40, 0), MEANS, 1.0, weights).covered == 2
    assert mode_coverage(samples(60, 39, 1), MEANS, 1.0, weights).covered == 3
    nothing_expected = np.array([0.6, 0.4, 0.0])
    assert mode_coverage(samples(60, 40, 0), MEANS, 1.0, nothing_expected).covered == 2


def test_strays_belong_to_no_mode():
    found = mode_coverage(samples(40, 30, 20, stray=10), MEANS, 1.0, WEIGHTS)
    assert found.share == pytest.approx(0.9) and found.variation == pytest.approx(0.1)


SKEWED = np.array([0.85, 0.1, 0.05])


def test_modes_below_half_of_the_mean_weight_are_rare():
    assert rare_modes(SKEWED).tolist() == [False, True, True]
    assert rare_modes(100 * SKEWED).tolist() == [False, True, True]
    assert rare_modes(np.array([0.9, 0.1, 0.0])).tolist() == [False, True, False]
    assert not rare_modes(np.full(8, 0.125)).any() and not rare_modes(WEIGHTS).any()
    assert mode_coverage(samples(50, 30, 20), MEANS, 1.0, WEIGHTS).rare is None


@pytest.mark.parametrize(
    "counts, stray, rare",
    [
        ((850, 100, 50), 0, 1.0),
        ((425, 50, 25), 500, 1.0),  # Strays are none of its business.
        ((850, 150, 0), 0, 1.0),  # Among the rare ones it is the sum that counts.
        ((940, 40, 20), 0, 0.4),
        ((1000, 0, 0), 0, 0.0),
        ((700, 200, 100), 0, 2.0),
        ((0, 0, 0), 10, 0.0),
    ],
)
def test_the_share_of_rare_modes_over_the_true_one(counts, stray, rare):
    found = mode_coverage(samples(*counts, stray=stray), MEANS, 1.0, SKEWED)
    assert found.rare == pytest.approx(rare)


def test_three_standard_deviations():
    edge = np.array([[3.0, 0.0], [3.001, 0.0], [7.0, 0.0]])
    assert list(mode_members(edge, MEANS, 1.0)) == [0, -1, 1]


def test_replicates_equal_recomputation():
    r = np.random.default_rng(0)
    x = MEANS[r.integers(0, 3, 60)] + r.normal(0, 1.5, (60, 2))
    blocks = np.arange(60) % 4
    value, left = mode_replicates(x, MEANS, 1.0, 2 * WEIGHTS, blocks)
    assert value == mode_coverage(x, MEANS, 1.0, WEIGHTS)
    assert left == [mode_coverage(x[blocks != b], MEANS, 1.0, WEIGHTS) for b in range(4)]
    value, left = mode_replicates(x, MEANS, 1.0, SKEWED, blocks)
    assert value == mode_coverage(x, MEANS, 1.0, SKEWED)
    assert left == [mode_coverage(x[blocks != b], MEANS, 1.0, SKEWED) for b in range(4)]
