"""Vendi score and pairwise distance."""

import numpy as np
import pytest

from piflow_bench.evaluation.metrics import spectral
from piflow_bench.evaluation.metrics.diversity import (
    pairwise_distance,
    pairwise_replicates,
    vendi,
    vendi_replicates,
)
from piflow_bench.evaluation.uncertainty import jackknife_error

RNG = np.random.default_rng(7)


def brute_vendi(x):
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    w = np.linalg.eigvalsh(z @ z.T / len(x))
    w = w[w > 1e-12]
    return np.exp(-(w * np.log(w)).sum())


def brute_pairwise(x):
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    return 1 - (z @ z.T)[~np.eye(len(x), dtype=bool)].mean()


def test_golden(golden):
    assert vendi(golden.gen) == pytest.approx(golden.values["vendi_cosine"], rel=1e-5)


def test_vendi_limits():
    assert vendi(np.ones((9, 4))) == pytest.approx(1.0)
    assert vendi(np.eye(6)) == pytest.approx(6.0)
    assert vendi(np.repeat(np.eye(6), 5, axis=0)) == pytest.approx(6.0)


@pytest.mark.parametrize("n", [10, 24, 25, 60])
def test_vendi_both_forms_and_their_replicates(n):
    x, blocks = RNG.normal(size=(n, 24)), np.arange(n) % 5
    value, left = vendi_replicates(x, blocks)
    assert value == pytest.approx(brute_vendi(x), rel=1e-9)
    np.testing.assert_allclose(left, [brute_vendi(x[blocks != b]) for b in range(5)], rtol=1e-9)


@pytest.mark.parametrize("n", [240, 900])
@pytest.mark.parametrize("dead", [0, 20])
def test_vendi_replicates_by_expansion_are_the_exact_ones(n, dead, monkeypatch):
    x = np.logaddexp(0, RNG.normal(size=(n, 64)) * np.linspace(3, 0.1, 64))
    x[:, :dead] = 0
    blocks = np.arange(n) % 20
    value, exact = vendi_replicates(x, blocks)
    monkeypatch.setattr(spectral, "EXACT_FEATURES", 0)
    again, found = vendi_replicates(x, blocks)
    assert again == pytest.approx(value, rel=1e-9) and not np.array_equal(exact, found)
    assert 0.95 < jackknife_error(found) / jackknife_error(exact) < 1.05
    assert np.corrcoef(exact, found)[0, 1] > 0.99


def test_vendi_of_a_block_that_holds_a_direction_is_exact(monkeypatch):
    blocks = np.arange(400) % 20
    x = np.abs(RNG.normal(size=(400, 16)))
    x[blocks == 3] = np.eye(16)[0]
    x[blocks != 3, 0] = 0
    _, exact = vendi_replicates(x, blocks)
    monkeypatch.setattr(spectral, "EXACT_FEATURES", 0)
    np.testing.assert_array_equal(vendi_replicates(x, blocks)[1], exact)


def test_pairwise_brute_force_with_and_without_labels():
    x, labels = RNG.normal(0.3, 1, size=(50, 6)), np.arange(50) % 3 + 5
    assert pairwise_distance(x) == pytest.approx(brute_pairwise(x))
    within = np.mean([brute_pairwise(x[labels == c]) for c in (5, 6, 7)])
    assert pairwise_distance(x, labels) == pytest.approx(within)


def test_pairwise_replicates():
    x, blocks, labels = RNG.normal(size=(40, 6)), np.arange(40) * 4 // 40, np.arange(40) % 3
    for chosen in (None, labels):
        left = pairwise_replicates(x, chosen, blocks)[1]
        expected = [
            pairwise_distance(x[blocks != b], None if chosen is None else chosen[blocks != b])
            for b in range(4)
        ]
        np.testing.assert_allclose(left, expected, rtol=1e-10)


def test_pairwise_limits():
    assert pairwise_distance(np.ones((5, 2))) == pytest.approx(0)
    assert pairwise_distance(np.eye(4)) == pytest.approx(1)
    assert pairwise_distance(np.array([[1.0], [-1.0]])) == pytest.approx(2)
    lonely = np.concatenate([np.eye(4), np.ones((1, 4))])
    assert pairwise_distance(lonely, np.array([0, 0, 0, 0, 1])) == pytest.approx(1)
    assert np.isnan(pairwise_distance(np.eye(2), np.array([0, 1])))


def test_scale_and_order_do_not_matter():
    x = RNG.normal(size=(20, 4))
    scaled = (x * RNG.uniform(0.1, 9, (20, 1)))[::-1]
    assert vendi(scaled) == pytest.approx(vendi(x))
    assert pairwise_distance(scaled) == pytest.approx(pairwise_distance(x))


def test_zero_rows_are_refused():
    with pytest.raises(ValueError, match="row 1 is all zeros"):
        vendi(np.array([[1.0, 0.0], [0.0, 0.0]]))
