"""Precision, recall, density, coverage and AuthPct, with every delete-block replicate.

Radii are distances to the k-th nearest neighbour within the same set, the point itself left out.
The reference stays fixed, so blocks are deleted from the generated set only: precision, density and
AuthPct are means over generated points; coverage needs to know which blocks reach into a reference
point's ball; recall also needs the radii that generated points have without each block, which a few
extra neighbours per point give.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from piflow_bench.evaluation.pairs.nearest import Nearest
from piflow_bench.evaluation.pairs.tiles import Points, Strip, compares, exact_squared, hits, strips
from piflow_bench.evaluation.uncertainty import Replicated, mean_with_replicates

_EXTRA_NEIGHBOURS = 8
_PRUNE_BLOCKS = 2


def neighbours_for_replicates(k: int, n: int, blocks: int) -> int:
    """How many neighbours per generated point decide nearly all radii without a block."""
    return k if blocks == 1 else min(n - 1, 2 * k + _EXTRA_NEIGHBOURS)


def radii_without_blocks(
    x: Points, k: int, blocks: Tensor, squared: Tensor, index: Tensor, height: int | None = None
) -> Tensor:
    """Squared radii ``(n, g)`` with each block deleted (a point's own block: none deleted).

    ``squared`` and ``index`` ``(n, c)`` are the nearest neighbours; where a block holds too many of
    them, the neighbours are searched again among the other blocks, ``height`` rows at once.
    """
    count = int(blocks.max()) + 1
    neighbour_block = blocks[index]
    without = squared[:, k - 1 : k].repeat(1, count)
    if count == 1:
        return without
    for b in range(count):
        left = (neighbour_block != b).cumsum(1)
        position = (left == k).int().argmax(1)
        other = blocks != b
        known = (other & (left[:, -1] >= k)).nonzero()[:, 0]
        without[known, b] = squared[known, position[known]]
        lacking = (other & (left[:, -1] < k)).nonzero()[:, 0]
        if len(lacking):
            queries, base = x.take(lacking), x.take(other)
            # A query finds itself first, so one more is asked for.
            search = Nearest(queries, base, k + 1)
            for strip in strips(queries, base, height):
                search.add(strip)
            without[lacking, b] = search.result()[0][:, -1]
    return without


class Balls:
    """Which generated points lie in reference balls, and the other way round.

    Strips have reference points as rows and generated points as columns, so that a reference point
    has seen all generated ones when its strip is over.

    Args:
        reference: points ``(m,)`` of the rows; later rows are passed over.
        generated: points ``(n,)`` of the columns.
        blocks: ascending block ids ``(n,)`` of the generated points.
        reference_squared: squared radii of the reference points that count.
        generated_squared: squared radii ``(n,)``; None leaves recall out.
        without: ``(n, g)`` as from ``radii_without_blocks``; None leaves recall's replicates out.
        comparator: "le" or "lt".
    """

    def __init__(
        self,
        reference: Points,
        generated: Points,
        blocks: Tensor,
        reference_squared: Tensor,
        generated_squared: Tensor | None,
        without: Tensor | None,
        comparator: str,
    ):
        compares(torch.zeros(1), torch.zeros(1), comparator)
        self.reference, self.generated, self.blocks = reference, generated, blocks
        self.limits, self.radii, self.without = reference_squared, generated_squared, without
        self.comparator = comparator
        shape = (len(reference_squared), int(blocks.max()) + 1)
        device = blocks.device
        self.contained = torch.zeros(len(generated), dtype=torch.int64, device=device)
        self.covered, self.recalled, self.regained = (
            torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(3)
        )
        self._edges = [0, *torch.bincount(blocks).cumsum(0).tolist()]
        self._largest = float(torch.maximum(reference.norms.max(), generated.norms.max()))
        if without is not None:
            self._widest = without.amax(1)

    def add(self, strip: Strip) -> None:
        """Take a strip's pairs."""
        first, last = strip.first, min(strip.row_slice.stop, len(self.limits))
        if first >= last:
            return
        values, rows = strip.values[: last - first], slice(first, last)
        limits = self.limits[rows, None]
        sure, j, i = self._decide(values, limits, self.reference.norms[rows, None], first)
        self._count(sure)
        self.contained.index_add_(0, i, torch.ones_like(i))
        self._mark(self.covered, sure, rows, i, j)
        if self.radii is None:
            return
        sure, j, i = self._decide(values, self.radii, self.generated.norms, first)
        self._mark(self.recalled, sure, rows, i, j)
        if self.without is not None:
            self._regain(values, sure, rows)

    def _count(self, sure: Tensor) -> None:
        """Add up the balls that hold each column."""
        bytes_ = sure.view(torch.uint8)
        # As many bytes as cannot overflow are added without being widened.
        for part in bytes_.split(255):
            self.contained += part.sum(0, dtype=torch.uint8)

    def _decide(
        self, values: Tensor, limits: Tensor, norms: Tensor, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs certainly within their limits, and rows and columns of others that are."""
        points = self.generated
        # A part in a million more than the error bound: limits are rounded to the strip's dtype.
        certain = limits * points.frame.scale**2 * (1.0 - 1e-6)
        certain = certain - 2.0 * points.error * (norms + self._largest)
        sure = values < certain.to(values.dtype)
        j, i = hits((values <= points.scaled(limits)) ^ sure)
        squared = exact_squared(self.reference.exact, points.exact, j + first, i)
        limit = limits.expand(values.shape)[j, i]
        yes = compares(squared, limit, self.comparator)
        return sure, j[yes] + first, i[yes]

    def _mark(self, held: Tensor, sure: Tensor, rows: slice, i: Tensor, j: Tensor) -> None:
        """Note the blocks of the generated points that hold, or lie in, each row."""
        for block, (low, high) in enumerate(zip(self._edges, self._edges[1:], strict=False)):
            torch.any(sure[:, low:high], dim=1, out=held[rows, block])
        held[j, self.blocks[i]] = True

    def _regain(self, values: Tensor, sure: Tensor, rows: slice) -> None:
        """Note the rows that a column's wider ball holds once a block has left."""
        assert self.without is not None and self.radii is not None
        # A point held by two blocks stays recalled whichever block leaves: wider balls of the
        # others cannot change it.
        few = self.recalled[rows].sum(1) < _PRUNE_BLOCKS
        j = few.nonzero()[:, 0]
        wide = values[j] <= self.generated.scaled(self._widest)
        j_few, i = hits(wide & ~sure[j])
        j = j[j_few] + rows.start
        squared = exact_squared(self.reference.exact, self.generated.exact, j, i)
        outside = ~compares(squared, self.radii[i], self.comparator)
        i, j, squared = i[outside], j[outside], squared[outside]
        # A point's column of its own block holds its plain radius, which these pairs exceed.
        pair, block = compares(squared[:, None], self.without[i], self.comparator).nonzero(
            as_tuple=True
        )
        self.regained[j[pair], block] = True

    def result(self, k: int) -> dict[str, Replicated]:
        """Precision, recall (where radii were given), density and coverage."""
        contained = self.contained.cpu().numpy()
        ids, covered = self.blocks.cpu().numpy(), self.covered.cpu().numpy()
        found = {
            "precision": mean_with_replicates(contained > 0, ids),
            "density": mean_with_replicates(contained / k, ids),
            "coverage": _share_of_reference(covered, np.zeros_like(covered)),
        }
        if self.radii is not None:
            found["recall"] = _share_of_reference(
                self.recalled.cpu().numpy(), self.regained.cpu().numpy()
            )
        return found


def _share_of_reference(held: np.ndarray, regained: np.ndarray) -> Replicated:
    """Shares of rows held by any block, and by any other block than each in turn."""
    by = held.sum(axis=1)
    left = (by[:, None] - held > 0) | regained
    return Replicated(float(np.mean(by > 0)), left.mean(axis=0))
