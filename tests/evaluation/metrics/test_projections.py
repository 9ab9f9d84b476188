"""Sliced distances against golden values and one-dimensional closed forms."""

import numpy as np
import pytest

from piflow_bench.evaluation.metrics import projections as P

RNG = np.random.default_rng(6)


def w2_squared(a, b):
    """Integral of the squared gap of the two quantile functions, on a common refinement."""
    n = np.lcm(len(a), len(b))
    return np.mean((np.repeat(np.sort(a), n // len(a)) - np.repeat(np.sort(b), n // len(b))) ** 2)


def test_mind_golden(golden):
    assert P.mind(golden.gen, golden.ref, 1000, 2020) == pytest.approx(
        golden.values["mind_1000"], rel=1e-5
    )


def test_mind_identity_and_equal_sizes():
    x = RNG.normal(size=(40, 3))
    assert P.mind(x, x[::-1], 20) == pytest.approx(0, abs=1e-25)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 44), (44, 30), (7, 100)])
def test_sliced_wasserstein_brute_force(n, m):
    x, y = RNG.normal(size=(n, 3)), RNG.normal(0.5, 2, size=(m, 3))
    chosen = P.unit_directions(150, 3, 4)
    expected = np.sqrt(np.mean([w2_squared(x @ u, y @ u) for u in chosen]))
    assert P.sliced_wasserstein(x, y, 150, 4) == pytest.approx(expected, rel=1e-10)


def test_sliced_wasserstein_of_a_shift():
    x = RNG.normal(size=(50, 2))
    chosen = P.unit_directions(128, 2, 2020)
    shift = np.array([3.0, -1.0])
    expected = np.sqrt(np.mean((chosen @ shift) ** 2))
    assert P.sliced_wasserstein(x + shift, x) == pytest.approx(expected, rel=1e-9)
    assert P.sliced_wasserstein(x, x[::-1]) == pytest.approx(0, abs=1e-12)


def test_directions_have_unit_length():
    np.testing.assert_allclose(np.linalg.norm(P.unit_directions(9, 5, 0), axis=1), 1.0)


@pytest.mark.parametrize(("n", "m"), [(30, 50), (50, 30), (30, 30), (31, 29)])
def test_mind_replicates_equal_recomputation(n, m):
    x, y = RNG.normal(size=(n, 3)), RNG.normal(0.5, 1, size=(m, 3))
    blocks = np.arange(n) % 4
    value, left = P.mind_replicates(x, y, 12, 1, blocks)
    assert value == P.mind(x, y, 12, 1)
    expected = [P.mind(x[blocks != b], y, 12, 1) for b in range(4)]
    np.testing.assert_allclose(left, expected, rtol=1e-10)
