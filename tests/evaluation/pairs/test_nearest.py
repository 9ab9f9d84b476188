"""Strips and neighbour searches against brute force, where float32 alone would be wrong too."""

import numpy as np
import pytest
import torch

from piflow_bench.evaluation.pairs.nearest import Nearest
from piflow_bench.evaluation.pairs.tiles import Frame, Points, exact_squared, pair_dtype, strips


def exact(x, y):
    return np.array([np.einsum("pd,pd->p", row - y, row - y) for row in x])


def points(dtype, *sets):
    rows = [torch.from_numpy(each) for each in sets]
    frame = Frame.around(*rows, dtype=dtype)
    return [Points.of(each, frame) for each in rows]


CASES = {
    "normal": lambda r, n: r.normal(size=(n, 7)),
    "grid": lambda r, n: r.integers(0, 3, (n, 3)).astype(float),
    "far": lambda r, n: 1e6 + r.normal(size=(n, 4)),
    "tight": lambda r, n: np.where(r.random((n, 1)) < 0.1, 1e5, 0) + 1e-3 * r.normal(size=(n, 4)),
    "huge": lambda r, n: 1e30 * r.normal(size=(n, 4)),
    "constant": lambda r, n: np.ones((n, 3)),
    "line": lambda r, n: r.normal(size=(n, 1)),
}


DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [None, 1, 13])
@pytest.mark.parametrize("way", ["rows", "columns", "within"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_equals_brute_force(case, block, way, dtype):
    r = np.random.default_rng(0)
    x, y = CASES[case](r, 41), CASES[case](r, 170)
    if way == "within":
        (rows,) = points(dtype, y)
        search, passed = Nearest(rows, rows, 5), strips(rows, None, block)
        everything = exact(y, y)
        np.fill_diagonal(everything, np.inf)
    else:
        queries, base = points(dtype, x, y)
        search = Nearest(queries, base, 5, by_column=way == "columns")
        passed = strips(*((base, queries) if way == "columns" else (queries, base)), block)
        everything = exact(x, y)
    for strip in passed:
        search.add(strip)
    squared, index = (found.numpy() for found in search.result())
    order = np.argsort(everything, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(np.take_along_axis(everything, index, axis=1), squared)
    np.testing.assert_array_equal(squared, np.take_along_axis(everything, order, axis=1))
    np.testing.assert_array_equal(index, order)


def test_candidates_are_dropped_on_the_way():
    """Points that come ever nearer: each is a candidate when it comes."""
    base = np.linspace(9.0, 0.1, 4000)[:, None]
    queries, rows = points(torch.float64, np.zeros((3, 1)), base)
    search = Nearest(queries, rows, 2, by_column=True)
    for strip in strips(rows, queries, 1):
        search.add(strip)
        assert search._pending <= 16 * 2 * 3 + 3
    assert search.result()[1].tolist() == [[3999, 3998]] * 3


def test_no_more_neighbours_than_points():
    (p,) = points(torch.float64, np.random.default_rng(1).normal(size=(50, 2)))
    with pytest.raises(ValueError, match="50 neighbours of 49"):
        Nearest(p, p, 50)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strip_values_are_lower_bounds_and_give_products_and_distances(dtype):
    r = np.random.default_rng(3)
    x, y = r.normal(2, 1, size=(200, 64)), r.normal(2, 1, size=(300, 64))
    x[:50] = y[:50] + 1e-6
    rows, columns = points(dtype, x, y)
    scale, close = rows.frame.scale, 1e-5 if dtype == torch.float32 else 1e-12
    for strip in strips(rows, columns, 64):
        mine, here = x[strip.row_slice], strip.values.double().numpy()
        true = exact(mine, y) * scale**2
        norms = rows.norms[strip.row_slice, None] + columns.norms
        assert (here <= true).all() and (here + 2 * rows.error * norms.numpy() >= true).all()
        np.testing.assert_allclose(strip.products().numpy(), mine @ y.T, atol=100 * close)
        np.testing.assert_allclose(strip.squared().numpy(), exact(mine, y), atol=100 * close)


def test_a_set_with_itself_is_seen_once():
    (p,) = points(torch.float64, np.random.default_rng(3).normal(size=(50, 3)))
    seen = np.zeros((50, 50), int)
    for strip in strips(p, None, 7):
        assert torch.isinf(strip.values.diagonal()).all()
        seen[strip.row_slice, strip.column_slice] += 1
    assert (np.triu(seen) == np.triu(np.ones((50, 50)))).all()


@pytest.mark.parametrize("d", [1, 9, 2048, 300_000])
def test_exact_distances_are_symmetric_to_the_bit(d):
    x = torch.from_numpy(np.random.default_rng(4).normal(size=(30, d)))
    i, j = torch.triu_indices(30, 30)
    forward = exact_squared(x, x, i, j)
    assert torch.equal(forward, exact_squared(x, x, j, i))
    assert torch.equal(forward[7:8], exact_squared(x, x, i[7:8], j[7:8]))


def test_few_pairs_are_seen_in_float64():
    assert pair_dtype(2000, 2000) == torch.float64
    assert pair_dtype(2001, 2000) == torch.float32
