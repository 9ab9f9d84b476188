"""The nearest neighbours of points, gathered from strips of distances."""

from __future__ import annotations

import torch
from torch import Tensor

from piflow_bench.evaluation.pairs.tiles import Points, Strip, exact_squared, hits

_GROUPS = 16
_PENDING = 16
"""Candidates kept per wanted neighbour before those that are too far are dropped."""


class Nearest:
    """The ``count`` nearest base points of every query, from strips read in either direction.

    ``queries`` are the strips' columns (``by_column``) or rows; where both are one set, strips are
    read both ways, and a point is no neighbour of its own.
    """

    def __init__(self, queries: Points, base: Points, count: int, by_column: bool = False):
        available = len(base) - (queries is base)
        if not 1 <= count <= available:
            raise ValueError(f"{count} neighbours of {available} points")
        self.queries, self.base, self.count, self._by_column = queries, base, count, by_column
        self._slack = 2.0 * queries.error * (queries.norms + base.norms.max())
        # No query has its count-th neighbour beyond this.
        self._reach = torch.full_like(queries.norms, torch.inf)
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []
        self._pending = 0

    def add(self, strip: Strip) -> None:
        """Take the neighbours that a strip holds."""
        if self._by_column:
            self._gather(strip.values, strip.column_slice, strip.first, by_column=True)
        else:
            self._gather(strip.values, strip.row_slice, strip.start)
        if strip.within:
            height = len(strip.values)
            later = slice(strip.first + height, strip.column_slice.stop)
            self._gather(strip.values[:, height:], later, strip.first, by_column=True)
        if self._pending > _PENDING * self.count * len(self.queries):
            self._compact()

    def _gather(self, values: Tensor, queries: slice, start: int, by_column: bool = False) -> None:
        """Keep what may be among the nearest; queries are the rows of ``values``, or columns."""
        if not values.numel():
            return
        neighbours, across = (0, 1) if by_column else (1, 0)
        reach = self._reach[queries]
        if values.shape[neighbours] >= self.count:
            bound = _upper_bound(values, self.count, neighbours).double() + self._slack[queries]
            torch.minimum(reach, bound, out=reach)
        limit = torch.nextafter(reach.to(values.dtype), values.new_tensor(torch.inf))
        row, column = hits(values <= limit.unsqueeze(neighbours))
        query, neighbour = (row, column) if across == 0 else (column, row)
        self._found.append((query + queries.start, neighbour + start, values[row, column]))
        self._pending += len(query)

    def _compact(self) -> tuple[Tensor, Tensor]:
        """Queries in order and candidates, without those that cannot be among the nearest."""
        query, index, low = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        order = low.argsort(stable=True)
        order = order[query[order].argsort(stable=True)]
        query, index, low = query[order], index[order], low[order]
        rank = _rank(query, len(self.queries))
        reach = self._reach.clone()
        last = rank == self.count - 1
        reach[query[last]] = low[last].double() + self._slack[query[last]]
        torch.minimum(self._reach, reach, out=self._reach)
        keep = low.double() <= self._reach[query]
        query, index, low = query[keep], index[keep], low[keep]
        self._found, self._pending = [(query, index, low)], len(query)
        return query, index

    def result(self) -> tuple[Tensor, Tensor]:
        """Squared distances and indices ``(n, count)``: ascending, ties by index."""
        query, index = self._compact()
        squared = exact_squared(self.queries.exact, self.base.exact, query, index)
        order = index.argsort(stable=True)
        order = order[squared[order].argsort(stable=True)]
        order = order[query[order].argsort(stable=True)]
        query, index, squared = query[order], index[order], squared[order]
        keep = _rank(query, len(self.queries)) < self.count
        shape = (len(self.queries), self.count)
        return squared[keep].view(shape), index[keep].view(shape)


def _rank(sorted_queries: Tensor, count: int) -> Tensor:
    """Position of every entry among those of its query."""
    sizes = torch.bincount(sorted_queries, minlength=count)
    first = sizes.cumsum(0) - sizes
    return torch.arange(len(sorted_queries), device=sizes.device) - first[sorted_queries]


def _upper_bound(values: Tensor, count: int, dim: int) -> Tensor:
    """Upper bound of the ``count``-th smallest value along ``dim``, tight where few are wanted.

    The count-th smallest of the minima of disjoint groups: that many groups reach below it.
    """
    width, groups = values.shape[dim], max(_GROUPS, 4 * count)
    if width >= 4 * groups:
        size = width // groups
        whole = values.narrow(dim, 0, groups * size)
        values = whole.unflatten(dim, (groups, size)).amin(dim + 1)
    return values.topk(count, dim=dim, largest=False).values.select(dim, count - 1)
