"""Distances against golden values, closed forms, brute force and torch-fidelity itself."""

import numpy as np
import pytest

from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.metrics import distances as D
from piflow_bench.evaluation.pairs import tiles
from piflow_bench.evaluation.pairs.polynomial import (
    cubic_sums,
    diagonal_sum,
    prefers_moments,
    reference_facts,
    third_moment,
)
from piflow_bench.evaluation.pairs.sums import PairSums, u_statistic, v_statistic

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(60, 5)), RNG.normal(0.3, 1.2, size=(80, 5))


def score(name, x, y, **settings):
    (found,) = evaluate_with_replicates(x, y, [name], intervals=False, **settings)
    return found.value


def cdist(x, y):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


def off(k):
    return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))


def test_golden(golden):
    v = golden.values
    mean, std = D.kid_subsets(golden.gen, golden.ref, 50, 100, 2020)
    assert mean == pytest.approx(v["kid_mean"], rel=1e-5)
    assert std == pytest.approx(v["kid_std"], rel=1e-5)
    assert score("kid_exact", golden.gen, golden.ref) == pytest.approx(
        v["kid_exact_unbiased"], rel=1e-9
    )
    assert score("cmmd", golden.gen, golden.ref) == pytest.approx(
        v["cmmd_biased_sigma10_x1000"], rel=1e-5
    )


def test_kid_equals_torch_fidelity():
    torch = pytest.importorskip("torch")
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    theirs = metric.kid_features_to_metric(
        torch.tensor(X),
        torch.tensor(Y),
        kid_subsets=7,
        kid_subset_size=30,
        rng_seed=3,
        verbose=False,
    )
    mean, std = D.kid_subsets(X, Y, 7, 30, 3)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_kid_subset_size_is_checked():
    with pytest.raises(ValueError, match="<= 60"):
        D.kid_subsets(X, Y, 2, 61)


def test_kid_exact_brute_force():
    def kernel(a, b):
        return (a @ b.T / 5 + 1) ** 3

    expected = off(kernel(X, X)) + off(kernel(Y, Y)) - 2 * kernel(X, Y).mean()
    assert score("kid_exact", X, Y) == pytest.approx(expected, rel=1e-10)


def test_third_moments_give_the_sums_over_pairs():
    blocks = np.arange(60) * 4 // 60
    sums = cubic_sums(X, blocks, 80, reference_facts(Y))
    k = (X @ X.T / 5 + 1) ** 3
    np.fill_diagonal(k, 0)
    member = np.eye(4)[blocks]
    np.testing.assert_allclose(sums.within, member.T @ k @ member, rtol=1e-10)
    np.testing.assert_allclose(sums.cross, member.T @ ((X @ Y.T / 5 + 1) ** 3).sum(1), rtol=1e-10)
    assert sums.reference_count == 80 and list(sums.counts) == [15] * 4


def test_third_moment_inner_product():
    total = ((X @ Y.T / 5 + 1) ** 3).sum()
    assert third_moment(X) @ third_moment(Y) == pytest.approx(total, rel=1e-12)
    assert diagonal_sum(X) == pytest.approx((((X**2).sum(1) / 5 + 1) ** 3).sum())


def test_the_cheaper_way_is_chosen():
    assert prefers_moments(5000, 20000, 64)
    assert not prefers_moments(500, 600, 2048)


def test_cmmd_brute_force_and_identity():
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (X, Y))

    def kernel(a, b):
        return np.exp(-(cdist(a, b) ** 2) / 200)

    expected = 1000 * (kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())
    assert score("cmmd", X, Y) == pytest.approx(expected, rel=1e-9)
    assert score("cmmd", X, X) == pytest.approx(0, abs=1e-10)


def test_energy_distance_brute_force():
    expected = 2 * cdist(X, Y).mean() - off(cdist(X, X)) - off(cdist(Y, Y))
    assert score("energy_distance", X, Y) == pytest.approx(expected, rel=1e-9)


def test_energy_distance_is_unbiased_at_zero():
    rng = np.random.default_rng(2)
    values = [
        score("energy_distance", rng.normal(size=(20, 2)), rng.normal(size=(30, 2)))
        for _ in range(300)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def test_energy_distance_in_float32_tiles_is_close_to_float64():
    rng = np.random.default_rng(3)
    x, y = rng.normal(100.0, 1.0, (2001, 3)), rng.normal(100.1, 1.0, (2100, 3))
    parts = [cdist(x, y).mean(), off(cdist(x, x)), off(cdist(y, y))]
    assert score("energy_distance", x, y) == pytest.approx(
        2 * parts[0] - parts[1] - parts[2], abs=1e-7
    )


@pytest.mark.parametrize("name", ["kid_exact", "cmmd", "energy_distance"])
@pytest.mark.parametrize("pairs", [0, 10**9])
def test_strips_of_either_dtype_and_any_height_give_the_sums(name, pairs, monkeypatch):
    """Wide features, so that KID's sums come from strips too."""
    monkeypatch.setattr(tiles, "_FLOAT64_PAIRS", pairs)
    r = np.random.default_rng(4)
    x, y = np.maximum(r.normal(0.1, 1, (150, 300)), 0), np.maximum(r.normal(size=(170, 300)), 0)
    blocks = r.integers(0, 4, 150)
    u, v = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    cubic = [(a @ b.T / 300 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    gauss = [np.exp(-(cdist(a, b) ** 2) / 200) for a, b in ((u, u), (v, v), (u, v))]
    expected = {
        "kid_exact": off(cubic[0]) + off(cubic[1]) - 2 * cubic[2].mean(),
        "cmmd": 1000 * (gauss[0].mean() + gauss[1].mean() - 2 * gauss[2].mean()),
        "energy_distance": 2 * cdist(x, y).mean() - off(cdist(x, x)) - off(cdist(y, y)),
    }[name]
    found = [
        evaluate_with_replicates(x, y, [name], block_ids=blocks, block=height)[0]
        for height in (None, 1, 37)
    ]
    for each in found:
        assert each.value == pytest.approx(expected, rel=1e-9 if pairs else 2e-5)
        assert each.value == pytest.approx(found[0].value, rel=1e-6)
        for b, replicate in enumerate(each.replicates):
            again = score(name, x[blocks != b], y)
            assert replicate == pytest.approx(again, rel=1e-9 if pairs else 2e-5)


@pytest.mark.parametrize("name", ["fd", "kid_exact", "cmmd", "energy_distance"])
def test_order_of_samples_does_not_matter(name):
    shuffled = X[np.random.default_rng(1).permutation(60)]
    assert score(name, shuffled, Y[::-1]) == pytest.approx(score(name, X, Y), rel=1e-9)


def test_statistics_of_sums_by_hand():
    sums = PairSums(
        np.array([[2.0, 1.0], [1.0, 4.0]]), np.array([3.0, 5.0]), 6.0, np.array([2, 2]), 3
    )
    assert u_statistic(sums) == pytest.approx(8 / 12 + 1 - 2 * 8 / 12)
    assert u_statistic(sums, 0) == pytest.approx(4 / 2 + 1 - 2 * 5 / 6)
    assert v_statistic(sums, 1) == pytest.approx(2 / 4 + 6 / 9 - 2 * 3 / 6)


def test_zero_rows_have_no_direction():
    with pytest.raises(ValueError, match="row 2 "):
        D.unit_rows(np.array([[1.0, 0], [0, 1], [0, 0]]))
