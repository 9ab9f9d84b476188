"""Nearest neighbours and ball membership by tiles: float32 products, float64 decisions.

A tile holds *lower bounds* of the squared distances: float32 products of centred, scaled points
minus a bound on their rounding error. A comparison that the error could change is repeated in
float64 on the original points, so results equal those of float64 throughout; memory is
O(n x tile), never n x n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_STRIP = 4_000_000
"""Values in a strip of tiles when no row count is asked for."""
_GROUPS = 256
_EXACT_ROWS = 16384


@dataclass(frozen=True)
class Frame:
    """Common centre ``(d,)`` and power-of-two scale: cancellation and overflow stay away."""

    centre: np.ndarray
    scale: float

    @classmethod
    def around(cls, *sets: np.ndarray) -> Frame:
        """Frame centred on the last set, in which every point of all sets has length below 1."""
        centre = sets[-1].mean(axis=0)
        reach = max(float(np.sqrt(np.max(np.sum((s - centre) ** 2, axis=1)))) for s in sets)
        # A power of two keeps scaled thresholds exact.
        return cls(centre, 2.0 ** -np.ceil(np.log2(reach)) if reach > 0 else 1.0)


@dataclass(frozen=True)
class Points:
    """Points ``(n, d)`` in a frame: exact rows, float32 rows, and their squared lengths."""

    exact: np.ndarray
    low: np.ndarray
    norms: np.ndarray
    scale: float
    error: float
    """Rounding error of a float32 squared distance, as a share of the two squared lengths."""

    @classmethod
    def of(cls, x: np.ndarray, frame: Frame) -> Points:
        """Points ``x`` float64 ``(n, d)`` seen in ``frame``."""
        low = ((x - frame.centre) * frame.scale).astype(np.float32)
        norms = np.einsum("ij,ij->i", low, low, dtype=np.float64)
        error = 4.0 * (np.sqrt(x.shape[1]) + 4.0) * float(np.finfo(np.float32).eps)
        return cls(np.ascontiguousarray(x, np.float64), low, norms, frame.scale, error)

    def left(self) -> np.ndarray:
        """Left factor ``(n, d + 2)`` of the lower bounds."""
        return self._factor(-2.0 * self.low, first=True)

    def right(self) -> np.ndarray:
        """Right factor ``(n, d + 2)``: one matrix product gives lower bounds, no further pass."""
        return self._factor(self.low, first=False)

    def _factor(self, rows: np.ndarray, first: bool) -> np.ndarray:
        ones = np.ones(len(rows))
        reduced = self.norms * (1.0 - self.error)
        ends = (reduced, ones) if first else (ones, reduced)
        return np.column_stack([rows, *ends]).astype(np.float32)

    def threshold(self, squared: np.ndarray) -> np.ndarray:
        """Squared distances of the original points as float32 of this frame, rounded up."""
        return np.nextafter((squared * self.scale**2).astype(np.float32), np.float32(np.inf))


def exact_squared(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Squared distances of rows ``a[i]`` and ``b[j]`` by differences; the same bits either way."""
    out = np.empty(len(i))
    for s in range(0, len(i), _EXACT_ROWS):
        gap = a[i[s : s + _EXACT_ROWS]] - b[j[s : s + _EXACT_ROWS]]
        gap *= gap
        out[s : s + _EXACT_ROWS] = gap.sum(axis=1)
    return out


def compares(squared: np.ndarray, limit: np.ndarray, comparator: str) -> np.ndarray:
    """``squared <= limit`` for "le", ``squared < limit`` for "lt"."""
    if comparator not in ("le", "lt"):
        raise ValueError(f"comparator must be 'le' or 'lt', not {comparator!r}")
    return squared <= limit if comparator == "le" else squared < limit


def strips(rows: Points, columns: Points, block: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """First row and lower bounds ``(rows, n_columns)`` of every strip; the buffer is reused."""
    height = block or max(1, _STRIP // len(columns.low))
    left, right = rows.left(), np.ascontiguousarray(columns.right().T)
    buffer = np.empty((min(height, len(left)), right.shape[1]), dtype=np.float32)
    for start in range(0, len(left), height):
        part = left[start : start + height]
        yield start, np.matmul(part, right, out=buffer[: len(part)])


def nearest(
    queries: Points,
    base: Points,
    count: int,
    exclude: np.ndarray | None = None,
    block: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` nearest base points of every query: squared distances and indices ``(n, c)``.

    Rows ascend in distance, ties by index. ``exclude`` ``(n,)`` names the one base point that a
    query may not have: itself.
    """
    available = len(base.low) - (exclude is not None)
    if not 1 <= count <= available:
        raise ValueError(f"{count} neighbours of {available} points")
    squared = np.empty((len(queries.low), count))
    index = np.empty((len(queries.low), count), dtype=np.int64)
    slack = 2.0 * queries.error * (queries.norms + base.norms.max())
    for start, strip in strips(queries, base, block):
        here = np.arange(len(strip))
        if exclude is not None:
            strip[here, exclude[start + here]] = np.inf
        bound = _kth_bound(strip, count) + slack[start + here]
        limit = np.nextafter(bound.astype(np.float32), np.float32(np.inf))
        row, column = np.divmod(np.flatnonzero(strip <= limit[:, None]), strip.shape[1])
        d2 = exact_squared(queries.exact, base.exact, start + row, column)
        order = np.lexsort((column, d2, row))
        first = np.searchsorted(row, here)
        rank = np.arange(len(row)) - first[row]
        keep = order[rank < count]  # row is sorted already, so ranks hold after the sort too
        squared[start + here] = d2[keep].reshape(len(here), count)
        index[start + here] = column[keep].reshape(len(here), count)
    return squared, index


def _kth_bound(strip: np.ndarray, count: int) -> np.ndarray:
    """Upper bound ``(rows,)`` of the ``count``-th smallest value, tight where few are wanted.

    The count-th smallest of the minima of disjoint groups: that many groups reach below it.
    """
    width = strip.shape[1]
    groups = max(_GROUPS, 4 * count)
    if width < 4 * groups:
        return np.partition(strip, count - 1, axis=1)[:, count - 1]
    whole = width // groups * groups
    minima = strip[:, :whole].reshape(len(strip), -1, groups).min(axis=1)
    return np.partition(minima, count - 1, axis=1)[:, count - 1]


def inside(
    strip: np.ndarray,
    start: int,
    rows: Points,
    columns: Points,
    squared_limits: np.ndarray,
    by_row: bool,
    comparator: str,
    possible: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a strip that a limit may admit: row, column, and whether it does.

    ``squared_limits``: one per row of ``rows`` (``by_row``) or per column. ``possible``: wider
    limits of the same shape; pairs between the two come back as not admitted.
    """
    wide = squared_limits if possible is None else possible
    limit = rows.threshold(wide)
    part = limit[start : start + len(strip), None] if by_row else limit[None, :]
    row, column = np.divmod(np.flatnonzero(strip <= part), strip.shape[1])
    low = strip[row, column].astype(np.float64)
    row += start
    owner = row if by_row else column
    bound = squared_limits[owner]
    # Half a part in a million more than the error bound: these limits were not rounded up.
    upper = low + 2.0 * rows.error * (rows.norms[row] + columns.norms[column])
    admitted = upper < bound * rows.scale**2 * (1.0 - 1e-6)
    open_case = np.flatnonzero(~admitted & (low <= bound * rows.scale**2 * (1.0 + 1e-6)))
    d2 = exact_squared(rows.exact, columns.exact, row[open_case], column[open_case])
    admitted[open_case] = compares(d2, bound[open_case], comparator)
    return row, column, admitted
