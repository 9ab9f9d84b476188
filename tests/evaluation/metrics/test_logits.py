"""Inception score against golden values and limits."""

import numpy as np
import pytest

from piflow_bench.evaluation.metrics.logits import inception_score


def test_golden(golden):
    v = golden.values
    mean, std = inception_score(golden.gen_logits, 5, False)
    assert mean == pytest.approx(v["is_mean_unshuffled_5"], rel=1e-5)
    assert std == pytest.approx(v["is_std_unshuffled_5"], rel=1e-5)
    mean, std = inception_score(golden.gen_logits, 5, True, 2020)
    assert mean == pytest.approx(v["is_mean_shuffled_5_seed2020"], rel=1e-5)
    assert std == pytest.approx(v["is_std_shuffled_5_seed2020"], rel=1e-5)


def test_limits():
    sure = 1000.0 * np.eye(4)[np.arange(40) % 4]
    assert inception_score(sure, 1)[0] == pytest.approx(4.0)
    assert inception_score(np.zeros((40, 4)), 2)[0] == pytest.approx(1.0)


def test_class_sorted_samples_collapse_without_a_shuffle():
    sure = 1000.0 * np.eye(4)[np.repeat(np.arange(4), 50)]
    assert inception_score(sure, 4, shuffle=False)[0] == pytest.approx(1.0)
    assert inception_score(sure, 4, shuffle=True)[0] > 3.5


def test_left_out_samples_keep_the_order_of_the_rest():
    logits = np.random.default_rng(0).normal(size=(30, 5))
    out = np.arange(30) < 10
    assert inception_score(logits, 4, False, without=out) == inception_score(logits[10:], 4, False)
    order = np.random.RandomState(2020).permutation(30)
    kept = logits[order[~out[order]]]
    assert inception_score(logits, 4, True, without=out) == inception_score(kept, 4, False)


def test_too_many_splits():
    with pytest.raises(ValueError, match="31 splits of 30"):
        inception_score(np.zeros((30, 2)), 31)
