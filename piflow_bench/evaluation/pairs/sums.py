"""MMDs and energy distances from sums of a kernel, kept per block of the generated sample.

Three numbers per block (its pairs with every other block, with the reference, and its size) are all
that such a distance needs, with or without any one block: one pass over the pairs gives the value
and every delete-one-block replicate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairSums:
    """Kernel sums with the reference held fixed.

    ``within`` ``(g, g)``: over pairs of different generated points, by the blocks of both;
    ``cross`` ``(g,)``: generated block with the whole reference; ``reference``: over ordered pairs
    of different reference points; ``counts`` ``(g,)`` and ``reference_count``: sizes; ``added``
    ``(1 + g,)`` and ``reference_added``: what balanced designs add to the sums within, of all and
    without each block (see ``stratified``).
    """

    within: np.ndarray
    cross: np.ndarray
    reference: float
    counts: np.ndarray
    reference_count: int
    added: np.ndarray | None = None
    reference_added: float = 0.0

    def without(self, block: int | None) -> tuple[float, float, int]:
        """Sum within, sum across and size of the generated sample, one block left out or none."""
        within, cross, n = float(self.within.sum()), float(self.cross.sum()), int(self.counts.sum())
        if block is not None:
            within += float(self.within[block, block] - 2.0 * self.within[block].sum())
            cross -= float(self.cross[block])
            n -= int(self.counts[block])
        return within, cross, n


def u_statistic(sums: PairSums, block: int | None = None) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y), unbiased (Gretton et al. 2012, eq. 3)."""
    within, cross, n = sums.without(block)
    m, reference = sums.reference_count, sums.reference + sums.reference_added
    if sums.added is not None:
        within += float(sums.added[0 if block is None else 1 + block])
    if n < 2 or m < 2:
        raise ValueError("an unbiased pair statistic needs 2 points on both sides")
    return within / (n * (n - 1)) + reference / (m * (m - 1)) - 2.0 * cross / (n * m)


def v_statistic(sums: PairSums, block: int | None = None) -> float:
    """The same with the diagonal kept, for a kernel whose diagonal is 0 (biased, never < 0)."""
    within, cross, n = sums.without(block)
    m = sums.reference_count
    return within / n**2 + sums.reference / m**2 - 2.0 * cross / (n * m)
