"""Strips of the pairwise distances of two sets of points: one pass that every pair metric reads.

A strip holds *lower bounds* of squared distances: products of centred, scaled points minus a bound
on their rounding error. A decision that the error could change is taken again in float64 on the
original points (``exact_squared``), so neighbours and balls are those of float64 throughout. Inner
products, and with them every kernel, follow from the same strip. Memory is O(n x strip), never
n x n. The code is the same on a CPU and a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

_STRIP = 1_000_000
"""Values in a strip when no row count is asked for."""
_PRODUCT = 8_000_000
"""Values multiplied at once."""
_FLOAT64_PAIRS = 4_000_000
_CACHED_VALUES = 131_072
"""Values gathered at once for exact distances on a CPU: what a core's cache holds."""
_GPU_VALUES = 16_777_216


def _rows_in_cache(x: Tensor) -> int:
    """Rows at once, so that temporary values need no memory of their own."""
    return len(x) if x.device.type != "cpu" else max(1, 4 * _CACHED_VALUES // x.shape[1])


def pair_dtype(n: int, m: int) -> torch.dtype:
    """float32 strips where there are many pairs, else float64.

    After centring, a float32 product is wrong by about 1e-7 of the points' norms with either sign;
    the mean over millions of them, summed in float64, is wrong by far less, and by orders of
    magnitude less than the sampling error at that many pairs. Both sides of one statistic need the
    same dtype, so the rule looks at both counts.
    """
    return torch.float64 if n * m <= _FLOAT64_PAIRS else torch.float32


@dataclass(frozen=True)
class Frame:
    """Common centre ``(d,)`` and power-of-two scale: cancellation and overflow stay away."""

    centre: Tensor
    scale: float
    dtype: torch.dtype

    @classmethod
    def around(cls, *sets: Tensor, dtype: torch.dtype) -> Frame:
        """Frame centred on the last set, in which every point of all sets has length at most 1."""
        centre = sets[-1].mean(0, dtype=torch.float64)
        reach = max(
            float(torch.linalg.vector_norm(part - centre, dim=1).max())
            for rows in sets
            for part in rows.split(_rows_in_cache(rows))
        )
        return cls(centre, 2.0 ** -np.ceil(np.log2(reach)) if reach > 0 else 1.0, dtype)


@dataclass(frozen=True)
class Points:
    """Points ``(n, d)`` in a frame."""

    exact: Tensor
    """As they are, float64 or float32: every value is exact in float64."""
    right: Tensor
    """``(n, d + 2)``: centred and scaled in the frame's dtype, then 1, then the squared length as
    it enters lower bounds: the right factor of a strip."""
    norms: Tensor
    """Squared lengths of the centred, scaled points ``(n,)``, float64."""
    offset: Tensor
    """``(n,)`` float64: an inner product is both points' offsets less half the strip's value."""
    frame: Frame
    error: float
    """Rounding error of a squared distance, as a share of the two squared lengths."""

    @classmethod
    def of(cls, x: Tensor, frame: Frame) -> Points:
        """Points ``x`` ``(n, d)``, float64 or float32, seen in ``frame``."""
        right = torch.ones((len(x), x.shape[1] + 2), dtype=frame.dtype, device=x.device)
        low = right[:, :-2]
        norms = torch.empty(len(x), dtype=torch.float64, device=x.device)
        step = _rows_in_cache(x)
        for i in range(0, len(x), step):
            low[i : i + step] = (x[i : i + step] - frame.centre).mul_(frame.scale)
            norms[i : i + step] = low[i : i + step].double().square().sum(1)
        error = 4.0 * (np.sqrt(x.shape[1]) + 4.0) * torch.finfo(frame.dtype).eps
        centre = frame.centre
        reduced = norms * (1.0 - error)
        right[:, -1] = reduced
        # In parts where a float64 copy of all of x would be made.
        parts = x.split(len(x) if x.dtype == centre.dtype else step)
        along = torch.cat([part.to(centre.dtype) @ centre for part in parts])
        offset = reduced / (2.0 * frame.scale**2) + along - centre @ centre / 2
        return cls(x, right, norms, offset, frame, error)

    def __len__(self) -> int:
        return len(self.right)

    @cached_property
    def lengths(self) -> Tensor:
        """Lengths ``(n,)`` of the original points, float64.

        Raises:
            ValueError: if a point is all zeros: it has no direction.
        """
        lengths = torch.linalg.vector_norm(self.exact, dim=1, dtype=torch.float64)
        if not bool((lengths > 0).all()):
            raise ValueError(f"row {int(lengths.argmin())} is all zeros and has no direction")
        return lengths

    def left(self) -> Tensor:
        """``(n, d + 2)``: its product with a right factor gives lower bounds."""
        left = self.right * -2.0
        left[:, -2], left[:, -1] = self.right[:, -1], 1.0
        return left

    def scaled(self, squared: Tensor) -> Tensor:
        """Squared distances of the original points as the frame's, rounded up."""
        inf = torch.tensor(torch.inf, dtype=self.frame.dtype, device=squared.device)
        return torch.nextafter((squared * self.frame.scale**2).to(self.frame.dtype), inf)

    def take(self, rows: Tensor | slice) -> Points:
        """Some of the points."""
        return replace(
            self,
            exact=self.exact[rows],
            right=self.right[rows],
            norms=self.norms[rows],
            offset=self.offset[rows],
        )


@dataclass(frozen=True)
class Strip:
    """Lower bounds ``values`` ``(r, c)`` between rows and columns from ``first`` and ``start``."""

    rows: Points
    columns: Points
    first: int
    start: int
    values: Tensor
    within: bool
    """Rows and columns are one set: the strip begins at its diagonal, whose values are infinite,
    and what lies left of it came transposed with earlier strips."""

    @property
    def row_slice(self) -> slice:
        """The rows."""
        return slice(self.first, self.first + len(self.values))

    @property
    def column_slice(self) -> slice:
        """The columns."""
        return slice(self.start, self.start + self.values.shape[1])

    def products(self, scale: float = 1.0) -> Tensor:
        """Inner products ``(r, c)`` of the original points, scaled; a diagonal is meaningless."""
        rows = self.rows.offset[self.row_slice] * scale
        columns = self.columns.offset[self.column_slice] * scale
        dtype = self.values.dtype
        out = rows.to(dtype)[:, None] + columns.to(dtype)[None, :]
        return out.sub_(self.values, alpha=0.5 * scale / self.rows.frame.scale**2)

    def squared(self) -> Tensor:
        """Squared distances ``(r, c)``, without the lower bounds' allowance for rounding."""
        share = self.rows.error / self.rows.frame.scale**2
        rows, columns = self.rows.norms[self.row_slice], self.columns.norms[self.column_slice]
        dtype = self.values.dtype
        out = (rows * share).to(dtype)[:, None] + (columns * share).to(dtype)[None, :]
        return out.add_(self.values, alpha=1.0 / self.rows.frame.scale**2)


def strips(
    rows: Points, columns: Points | None = None, block: int | None = None
) -> Iterator[Strip]:
    """Strips of ``block`` rows over all columns, or over the columns not seen yet of one set.

    Many rows are multiplied at once, which is faster, and handed out few by few, which stay in a
    core's cache. The buffer is reused: a strip lasts until the next one.
    """
    other = rows if columns is None else columns
    left, right = rows.left(), other.right
    height = block or max(1, _STRIP // len(other))
    # A triangle wastes what its strips begin with, so its products are smaller.
    product = _PRODUCT if columns is None else 3 * _PRODUCT
    at_once = height if block else height * max(1, product // (height * len(other)))
    buffer = torch.empty(0, dtype=left.dtype, device=left.device)
    for top in range(0, len(rows), at_once):
        bottom = min(top + at_once, len(rows))
        start = top if columns is None else 0
        shape = (bottom - top, len(other) - start)
        if buffer.numel() < shape[0] * shape[1]:
            buffer = torch.empty(shape[0] * shape[1], dtype=left.dtype, device=left.device)
        found = buffer[: shape[0] * shape[1]].view(shape)
        _multiply(left[top:bottom], right[start:], found)
        if columns is None:
            found.diagonal().fill_(torch.inf)
        for first in range(top, bottom, height):
            begin = first if columns is None else 0
            values = found[first - top : first - top + height, begin - start :]
            yield Strip(rows, other, first, begin, values, columns is None)


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    if a.device.type == "cpu":
        # OpenBLAS is the faster of the two on AMD's processors, by much on a busy machine.
        np.matmul(a.numpy(), b.numpy().T, out=out.numpy())
    else:
        torch.matmul(a, b.T, out=out)


def hits(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns where a mask ``(r, c)`` is true; there should be few."""
    if mask.device.type != "cpu":
        found = mask.nonzero(as_tuple=True)
        return found[0], found[1]
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    rows = flat // mask.shape[1]
    return rows, flat - rows * mask.shape[1]


def exact_squared(a: Tensor, b: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances ``(p,)`` of rows ``a[i]`` and ``b[j]``; the same bits either way."""
    if a.device.type == "cpu":
        return torch.from_numpy(_exact_on_cpu(a.numpy(), b.numpy(), i.numpy(), j.numpy()))
    out = torch.empty(len(i), dtype=torch.float64, device=a.device)
    step = max(2, _GPU_VALUES // a.shape[1])
    for s in range(0, len(i), step):
        left, right = i[s : s + step], j[s : s + step]
        count = len(left)
        # A GPU's order of summation follows the shape, so the shape stays.
        left, right = (torch.cat([x, x.new_zeros(step - count)]) for x in (left, right))
        out[s : s + count] = (a[left].double() - b[right]).square().sum(1)[:count]
    return out


def _exact_on_cpu(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    out = np.empty(len(i))
    step = max(1, _CACHED_VALUES // a.shape[1])
    for s in range(0, len(i), step):
        gap = a[i[s : s + step]].astype(np.float64, copy=False)
        gap -= b[j[s : s + step]]
        np.einsum("pd,pd->p", gap, gap, out=out[s : s + step])
    return out


def compares(squared: Tensor, limit: Tensor, comparator: str) -> Tensor:
    """``squared <= limit`` for "le", ``squared < limit`` for "lt"."""
    if comparator not in ("le", "lt"):
        raise ValueError(f"comparator must be 'le' or 'lt', not {comparator!r}")
    return squared <= limit if comparator == "le" else squared < limit
