"""Moments merge, come apart and do not depend on order."""

import numpy as np
import pytest

from piflow_bench.evaluation.moments import Moments, block_moments, merge_all


def _same(a: Moments, b: Moments, rtol=1e-10):
    assert a.n == b.n
    np.testing.assert_allclose(a.mean, b.mean, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=rtol, atol=1e-8)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3.0, 2.0, (97, 6))


def test_from_features_equals_numpy(x):
    m = Moments.from_features(x)
    np.testing.assert_allclose(m.mean, x.mean(axis=0))
    np.testing.assert_allclose(m.covariance, np.cov(x.T))


def test_float32_features_are_summed_in_float64(x):
    m = Moments.from_features(x.astype(np.float32))
    assert m.mean.dtype == m.scatter.dtype == np.float64


def test_many_rows_are_merged_by_pieces():
    x = np.random.default_rng(1).normal(1e4, 1.0, (40000, 2))
    np.testing.assert_allclose(Moments.from_features(x).covariance, np.cov(x.T), rtol=1e-9)


@pytest.mark.parametrize("cuts", [[1], [50], [10, 20, 21], list(range(1, 97))])
def test_merging_any_shards_gives_the_whole(x, cuts):
    _same(
        merge_all([Moments.from_features(p) for p in np.split(x, cuts)]), Moments.from_features(x)
    )


def test_order_does_not_matter(x):
    _same(Moments.from_features(x[::-1]), Moments.from_features(x))


def test_without_undoes_merge(x):
    whole, part = Moments.from_features(x), Moments.from_features(x[20:45])
    rest = Moments.from_features(np.delete(x, np.s_[20:45], axis=0))
    _same(whole.without(part), rest)
    _same(whole.without(part).merge(part), whole)


def test_without_everything_is_refused(x):
    m = Moments.from_features(x)
    with pytest.raises(ValueError, match="97 samples out of 97"):
        m.without(m)


def test_block_moments(x):
    ids = np.arange(97) % 4
    for b, m in enumerate(block_moments(x, ids)):
        _same(m, Moments.from_features(x[ids == b]))


def test_bad_shapes():
    with pytest.raises(ValueError, match="n >= 1"):
        Moments.from_features(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="at least 2"):
        _ = Moments.from_features(np.zeros((1, 3))).covariance
