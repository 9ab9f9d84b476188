"""Intervals and tests against values worked out by hand; their coverage: test_coverage.py."""

import math

import numpy as np
import pytest

from piflow_bench.evaluation import uncertainty as U
from piflow_bench.evaluation.inference import seeds as S


def test_jackknife_of_a_mean_is_its_t_interval():
    x = np.random.default_rng(0).normal(size=24)
    left = [np.delete(x, i).mean() for i in range(24)]
    jackknife, t = U.jackknife_interval(x.mean(), left), S.seed_interval(x)
    assert (jackknife.low, jackknife.high) == pytest.approx((t.low, t.high))
    assert jackknife.n == 24 and "reference" in jackknife.estimand


def test_t_interval_by_hand():
    """Values 1, 2, 3: mean 2, sd 1, t(2, .975) = 4.302653, half-width 4.302653 / sqrt 3."""
    found = S.seed_interval([1, 2, 3])
    assert (found.value, found.high - 2) == pytest.approx((2, 2.484138), rel=1e-6)
    assert S.seed_interval([1, 2, 3], 0.9).high - 2 == pytest.approx(2.919986 / 3**0.5, rel=1e-6)


def test_students_t_in_closed_form():
    """One degree of freedom is Cauchy's; two: 1 - t / sqrt(2 + t^2); a tail far out is no zero."""
    assert U.two_sided(1.0, 1) == pytest.approx(0.5)
    assert U.two_sided(3.0, 1) == pytest.approx(1 - 2 / math.pi * math.atan(3.0))
    assert U.two_sided(-3.0, 2) == pytest.approx(1 - 3.0 / math.sqrt(11.0))
    assert U.t_quantile(0.95, 1) == pytest.approx(math.tan(0.475 * math.pi))
    assert U.two_sided(1e4, 4) == pytest.approx(12 / 1e16 / 2, rel=1e-2)
    assert U.two_sided(U.t_quantile(0.99, 5.3), 5.3) == pytest.approx(0.01)


def test_jackknife_by_hand():
    """Replicates 1, 2, 3, 6: squares about the mean 14, error sqrt(3/4 * 14), t(3) = 3.182446."""
    found = U.jackknife_interval(10.0, [1, 2, 3, 6])
    half = 3.182446 * (0.75 * 14) ** 0.5
    assert (found.low, found.high) == pytest.approx((10 - half, 10 + half), abs=1e-5)


def test_paired_seed_difference_by_hand():
    """Differences 1, 2, 3, 4, 5: mean 3, t = 3 / (1.5811 / sqrt 5) = 4.2426, p = .013236."""
    found = S.paired_seed_difference([2, 4, 6, 8, 10], [1, 2, 3, 4, 5])
    assert found.difference == 3 and found.n == 5
    assert found.p == pytest.approx(0.0132356, rel=1e-4)
    assert found.high - 3 == pytest.approx(2.776445 * 0.5**0.5, rel=1e-6)


def test_jackknife_difference_pairs_blocks():
    a, b = np.array([1.0, 2, 3, 4]), np.array([0.5, 1.5, 2.5, 3.5])
    found = U.jackknife_difference(5.0, a, 4.5, b)
    assert found.difference == 0.5 and np.isnan(found.p), "no spread is no certainty"
    near = U.jackknife_difference(5.0, a + [0, 1e-3, 0, 0], 4.5, b)
    assert 0 < near.p < 1e-6 and near.high - near.low < 0.01
    assert U.jackknife_difference(5.0, a, 5.0, a).p == 1
    shuffled = U.jackknife_difference(5.0, a, 4.5, b[::-1])
    assert shuffled.high > 1
    with pytest.raises(ValueError, match="4 and 3 blocks"):
        U.jackknife_difference(0, a, 0, b[:3])


def test_unknown_is_nan_not_zero():
    for found in (
        U.jackknife_interval(1, []),
        U.jackknife_interval(1, [1, np.nan]),
        S.seed_interval([1.0]),
    ):
        assert np.isnan([found.low, found.high]).all()
    assert np.isnan(S.paired_seed_difference([1.0], [2.0]).p)
    assert np.isnan(U.jackknife_difference(1, [1.0], 2, [2.0]).p)
    assert np.isnan(U.jackknife_difference(1, [1.0, np.nan], 2, [2.0, 1.0]).p)


def test_holm_by_hand():
    """.01, .04, .03, .005 x 4, 3, 2, 1 in order: .02, .03, .06, then .04 raised to .06."""
    np.testing.assert_allclose(U.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(U.holm([0.6, 0.7]), [1, 1])
    np.testing.assert_allclose(U.holm([0.02, np.nan, 0.5]), [0.04, np.nan, 0.5])
    assert len(U.holm([])) == 0


def test_bootstrap_of_a_mean():
    scores = np.random.default_rng(1).exponential(size=400)
    found, t = U.bootstrap_mean_interval(scores, 3), S.seed_interval(scores)
    assert found == U.bootstrap_mean_interval(scores, 3)
    assert (found.low, found.high) == pytest.approx((t.low, t.high), abs=0.02)
    assert found.value == pytest.approx(scores.mean()) and found.n == 400


def test_the_noise_that_seeds_share_is_found():
    """Means of blocks: noise common to all seeds (sd 2) and each seed's own (sd 3), 20 blocks."""
    rng = np.random.default_rng(0)

    def replicates(own, common):
        blocks = own * rng.standard_normal((5, 20)) + common * rng.standard_normal((1, 20))
        return blocks.mean(1, keepdims=True) + (blocks.mean(1, keepdims=True) - blocks) / 19

    found = [S.shared_variance(replicates(3.0, 2.0)) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(2.0**2 / 20, rel=0.1)
    alone = [S.shared_variance(replicates(3.0, 0.0)) for _ in range(500)]
    assert min(alone) >= 0 and np.mean(alone) < 0.15 * 3.0**2 / 20


def test_shared_noise_widens_an_interval_over_seeds():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    same = np.tile(np.random.default_rng(1).standard_normal(20) / 19, (5, 1))
    plain, wide = (
        S.seed_interval(values),
        S.seed_interval(values, replicates=values[:, None] + same),
    )
    error = np.hypot(values.std(ddof=1) / 5**0.5, U.jackknife_error(same[0]))
    assert wide.high - 3 == pytest.approx(2.7764451 * error)
    assert wide.high > plain.high and wide.value == plain.value
    # Replicates that are missing change nothing.
    gap = S.paired_seed_difference(values, values * 2, replicates=None)
    assert gap == S.paired_seed_difference(values, values * 2)
    assert S.paired_seed_difference(values, values * 2, replicates=same).p > gap.p


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 9])
def test_a_constant_difference_is_no_certainty_when_it_is_rounded(shift):
    """Counts of 500 that differ by as much in every seed or block: the spread is rounding."""
    a = np.array([491, 498, 474, 491, 497])
    found = S.paired_seed_difference(a / 500, (a - shift) / 500)
    assert np.isnan(found.p) and found.difference == pytest.approx(shift / 500)
    blocks = np.array([343, 349, 343, 346, 345] * 4)
    found = U.jackknife_difference(350 / 360, blocks / 360, 346 / 360, (blocks - shift) / 360)
    assert np.isnan(found.p)
    assert S.paired_seed_difference(a / 500, a * 3 / 1500).p == 1


def test_a_confidence_is_told_with_every_digit_asked_for():
    told = {0.95: "95 %", 0.9: "90 %", 0.29: "29 %", 0.995: "99.5 %", 0.9973: "99.73 %"}
    assert {each: U.percent(each) for each in told} == told
