"""Agreement of orders: Kendall's tau, redraws, and the mean over pairs of train seeds."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from piflow_bench.evaluation.inference.ranks import (
    by_seed,
    kendall,
    redrawn_tau,
    redraws,
    tau_of_seeds,
)
from piflow_bench.evaluation.uncertainty import jackknife_error

RANDOM = np.random.default_rng(0)


def cell(value, by=None, left=()):
    return {"value": value, "by_seed": by or {-1.0: value}, "replicates": list(left)}


def test_tau_is_scipys_with_ties_and_along_the_last_axis():
    a, b = RANDOM.integers(0, 4, (2, 20, 7)).astype(float)
    expected = [kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert kendall(a, b) == pytest.approx(expected)
    assert np.isnan(kendall(np.ones(4), np.arange(4.0)))


def test_redraws_of_samples_have_the_jackknifes_error_and_are_shared():
    left = 5 + 0.1 * RANDOM.standard_normal(20)
    drawn = redraws([[cell(5.0, left=left)], [cell(7.0, left=left)]], 20_000)
    assert drawn.shape == (20_000, 2, 1)
    # g draws of g blocks: the spread is (g - 1) / g of the squared error.
    error = jackknife_error(left) * np.sqrt(19 / 20)
    assert drawn[:, 0, 0].std() == pytest.approx(error, rel=0.03)
    assert drawn[:, 0, 0].mean() == pytest.approx(5.0, abs=0.01)
    assert np.ptp(drawn[:, 1, 0] - drawn[:, 0, 0]) < 1e-9, "noise that both share cancels"


def test_a_block_that_raises_the_value_raises_it_where_it_is_drawn_often():
    """Without its high block the value is low, so draws that have the block twice are high."""
    left = np.full(20, 1.0)
    left[0] = 0.0
    drawn = redraws([[cell(1.0, left=left)]], 4000)[:, 0, 0]
    weights = np.random.default_rng([2020, 20]).multinomial(20, np.full(20, 1 / 20), size=4000)
    assert np.corrcoef(weights[:, 0], drawn)[0, 1] > 0.999


def test_redraws_of_trainings_are_a_competitors_own_and_as_wide_as_a_mean_is():
    seeds = {float(i): v for i, v in enumerate((1.0, 2.0, 4.0))}
    later = {seed: 10 * value for seed, value in seeds.items()}
    mean = np.mean(list(seeds.values()))
    both = [cell(mean, seeds), cell(10 * mean, later)]
    drawn = redraws([both, [cell(mean, seeds)] * 2], 20_000)
    error = np.std(list(seeds.values()), ddof=1) / np.sqrt(3)
    assert drawn[:, 0, 0].std() == pytest.approx(error, rel=0.03)
    assert drawn[:, 0, 1] == pytest.approx(10 * drawn[:, 0, 0]), "one training, two checkpoints"
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 0])[0, 1]) < 0.03


def test_an_order_that_noise_cannot_change_is_certain_and_a_near_tie_is_not():
    far, near = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.01])
    noise = 0.1 * RANDOM.standard_normal((1000, 3))
    sure = redrawn_tau(far, far, (far + noise / 10, far - noise / 10))
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)
    open_ = redrawn_tau(far, near, (far + noise, near + noise[::-1]))
    assert open_.value == 1 and open_.low == pytest.approx(1 / 3) and open_.high == 1
    some = np.tile(far, (100, 1))
    some[:10] = [2.0, 1.0, 3.0]
    tenth = redrawn_tau(far, far, (np.tile(far, (100, 1)), some))
    assert tenth.low == pytest.approx(1 / 3) and tenth.high == 1, "more than 1 in 40"
    still = redrawn_tau(far, -far, (np.tile(far, (5, 1)), np.tile(-far, (5, 1))))
    assert still.value == -1 and np.isnan(still.low), "nothing moves: nothing is known"


def test_the_mean_over_pairs_of_seeds():
    one, swapped = [1.0, 2.0, 3.0], [2.0, 1.0, 3.0]
    found = tau_of_seeds(np.array([one, one, one, one, swapped]))
    assert found.value == pytest.approx((6 * 1 + 4 / 3) / 10)
    # Without the odd seed 1, without another one three pairs of 1 and three of 1 / 3.
    error = jackknife_error([2 / 3, 2 / 3, 2 / 3, 2 / 3, 1])
    assert found.low == pytest.approx(found.value - 2.776445 * error, rel=1e-5)
    assert found.high == 1, "no tau is larger"
    alike = tau_of_seeds(np.array([one] * 4))
    assert alike.value == 1 and np.isnan(alike.low)
    assert np.isnan(tau_of_seeds(np.array([one, swapped])).low), "one pair has no spread"


def test_seeds_that_all_have():
    a, b = cell(1, {0.0: 1.0, 1.0: 2.0, 2.0: 3.0}), cell(5, {0.0: 5.0, 1.0: 6.0})
    assert by_seed([a, b]).tolist() == [[1, 5], [2, 6]]
    assert by_seed([a, cell(4, {0.0: 4.0})]) is None
    assert by_seed([cell(1.0), cell(2.0)]) is None
