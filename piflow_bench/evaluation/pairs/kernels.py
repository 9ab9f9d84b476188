"""Kernels of pairs of points, and their sums by blocks, read off strips of distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from piflow_bench.evaluation.pairs.tiles import Strip

Kernel = Callable[[Strip], Tensor]
"""Values ``(r, c)`` of a strip; the diagonal of a set with itself may be anything."""


def cubic(strip: Strip) -> Tensor:
    """KID's kernel (x.y / d + 1)^3 (Binkowski et al. 2018)."""
    return strip.products(1.0 / strip.rows.exact.shape[1]).add_(1.0).pow_(3)


def distance(strip: Strip) -> Tensor:
    """Euclidean distances."""
    return strip.squared().clamp_min_(0.0).sqrt_()


def directions(sigma: float) -> Kernel:
    """Gaussian kernel of the points scaled to length 1, minus 1.

    The constant cancels in an MMD, and without it fewer digits do.
    """

    def kernel(strip: Strip) -> Tensor:
        dtype = strip.values.dtype
        rows = (1.0 / strip.rows.lengths[strip.row_slice]).to(dtype)
        columns = (1.0 / strip.columns.lengths[strip.column_slice]).to(dtype)
        cosine = strip.products().mul_(rows[:, None]).mul_(columns)
        return cosine.sub_(1.0).div_(sigma**2).expm1_()

    return kernel


class KernelSums:
    """Sums of a kernel by the blocks of rows and columns, over ordered pairs of different points.

    ``rows`` ``(n,)`` and ``columns`` ``(m,)`` are ascending block ids; ``columns`` is None where
    rows and columns are one set.
    """

    def __init__(self, kernel: Kernel, rows: Tensor, columns: Tensor | None = None):
        self.kernel, self.rows = kernel, rows
        other = rows if columns is None else columns
        self._edges = [0, *torch.bincount(other).cumsum(0).tolist()]
        shape = (int(rows.max()) + 1, len(self._edges) - 1)
        self.total = torch.zeros(shape, dtype=torch.float64, device=rows.device)

    def add(self, strip: Strip) -> None:
        """Take a strip's values."""
        values = self.kernel(strip)
        if not strip.within:
            self.total += self._sums(values, strip.first, strip.start)
            return
        height = len(values)
        values.diagonal().fill_(0.0)
        self.total += self._sums(values[:, :height], strip.first, strip.first)
        beyond = self._sums(values[:, height:], strip.first, strip.first + height)
        self.total += beyond + beyond.T

    def _sums(self, values: Tensor, first: int, start: int) -> Tensor:
        stop = start + values.shape[1]
        by_column = torch.zeros(
            (len(values), self.total.shape[1]), dtype=torch.float64, device=values.device
        )
        for block, (low, high) in enumerate(zip(self._edges, self._edges[1:], strict=False)):
            low, high = max(low, start), min(high, stop)
            if low < high:
                by_column[:, block] = values[:, low - start : high - start].sum(1)
        sums = torch.zeros_like(self.total)
        return sums.index_add_(0, self.rows[first : first + len(values)], by_column)
