"""Neighbour searches against brute force, where float32 alone would be wrong too."""

import numpy as np
import pytest

from piflow_bench.evaluation.nearest import Frame, Points, exact_squared, inside, nearest, strips


def exact(x, y):
    return np.array([((row - y) ** 2).sum(1) for row in x])


def points(x, y):
    frame = Frame.around(x, y)
    return Points.of(x, frame), Points.of(y, frame)


CASES = {
    "normal": lambda r, n: r.normal(size=(n, 7)),
    "grid": lambda r, n: r.integers(0, 3, (n, 3)).astype(float),
    "far": lambda r, n: 1e6 + r.normal(size=(n, 4)),
    "tight": lambda r, n: np.where(r.random((n, 1)) < 0.1, 1e5, 0) + 1e-3 * r.normal(size=(n, 4)),
    "huge": lambda r, n: 1e30 * r.normal(size=(n, 4)),
    "constant": lambda r, n: np.ones((n, 3)),
    "line": lambda r, n: r.normal(size=(n, 1)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [None, 1, 13])
@pytest.mark.parametrize("n", [70, 1300])
def test_nearest_equals_brute_force(case, block, n):
    if n > 100 and block == 1:
        pytest.skip("slow and the same")
    r = np.random.default_rng(0)
    x, y = CASES[case](r, 41), CASES[case](r, n)
    squared, index = nearest(*points(x, y), 5, block=block)
    everything = exact(x, y)
    order = np.argsort(everything, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(squared, np.take_along_axis(everything, order, axis=1))


def test_a_point_can_be_excluded():
    x = np.random.default_rng(1).normal(size=(50, 2))
    p, _ = points(x, x)
    squared, index = nearest(p, p, 49, np.arange(50))
    assert (index != np.arange(50)[:, None]).all() and np.isfinite(squared).all()
    with pytest.raises(ValueError, match="50 neighbours of 49"):
        nearest(p, p, 50, np.arange(50))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("comparator", ["le", "lt"])
@pytest.mark.parametrize("by_row", [True, False])
def test_inside_equals_brute_force_with_limits_that_are_met_exactly(case, comparator, by_row):
    r = np.random.default_rng(2)
    x, y = CASES[case](r, 37), CASES[case](r, 53)
    everything = exact(x, y)
    limits = everything[:, 20] if by_row else everything[20]
    grid = limits[:, None] if by_row else limits[None, :]
    expected = everything <= grid if comparator == "le" else everything < grid
    found = np.zeros_like(expected)
    rows, columns = points(x, y)
    for start, strip in strips(rows, columns, 10):
        i, j, yes = inside(strip, start, rows, columns, limits, by_row, comparator)
        found[i[yes], j[yes]] = True
    np.testing.assert_array_equal(found, expected)


def test_strip_values_are_lower_bounds():
    r = np.random.default_rng(3)
    x, y = r.normal(size=(200, 64)), r.normal(size=(300, 64))
    x[:50] = y[:50] + 1e-6
    rows, columns = points(x, y)
    for start, strip in strips(rows, columns, 64):
        true = exact(x[start : start + len(strip)], y) * rows.scale**2
        slack = 2 * rows.error * (rows.norms[start : start + len(strip), None] + columns.norms)
        assert (strip <= true).all() and (strip + slack >= true).all()


def test_exact_distances_are_symmetric_to_the_bit():
    x = np.random.default_rng(4).normal(size=(30, 9))
    i, j = np.triu_indices(30)
    np.testing.assert_array_equal(exact_squared(x, x, i, j), exact_squared(x, x, j, i))
