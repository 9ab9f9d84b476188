"""Sums of a kernel over all pairs of points, kept per block of the generated sample.

Three numbers per block (its pairs with every other block, with the reference, and its size) are all
that an MMD or an energy distance needs, with or without any one block: one pass over the tiles
gives the value and every delete-one-block replicate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Tile = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Kernel of every row of ``(a, d)`` with every row of ``(b, d)``: ``(a, b)``."""

TILE_ROWS = 1024
_FLOAT64_PAIRS = 4_000_000


@dataclass(frozen=True)
class PairSums:
    """Kernel sums with the reference held fixed.

    ``within`` ``(g, g)``: over pairs of different generated points, by the blocks of both;
    ``cross`` ``(g,)``: generated block with the whole reference; ``reference``: over ordered pairs
    of different reference points; ``counts`` ``(g,)`` and ``reference_count``: sizes.
    """

    within: np.ndarray
    cross: np.ndarray
    reference: float
    counts: np.ndarray
    reference_count: int

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
    m = sums.reference_count
    if n < 2 or m < 2:
        raise ValueError("an unbiased pair statistic needs 2 points on both sides")
    return within / (n * (n - 1)) + sums.reference / (m * (m - 1)) - 2.0 * cross / (n * m)


def v_statistic(sums: PairSums, block: int | None = None) -> float:
    """The same with the diagonal kept, for a kernel whose diagonal is 0 (biased, never < 0)."""
    within, cross, n = sums.without(block)
    m = sums.reference_count
    return within / n**2 + sums.reference / m**2 - 2.0 * cross / (n * m)


def distance_tile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances ``(len(a), len(b))`` in the dtype of the inputs."""
    squared = _squared_tile(a, b)
    np.maximum(squared, 0.0, out=squared)
    return np.sqrt(squared, out=squared)


def rbf_tile(sigma: float) -> Tile:
    """Gaussian kernel minus 1, for MMDs: the constant cancels there, and so do fewer digits."""

    def tile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = _squared_tile(a, b)
        squared *= -0.5 / sigma**2
        return np.expm1(squared, out=squared)

    return tile


def cubic_tile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / d + 1)^3 (Binkowski et al. 2018)."""
    inner = a @ b.T
    inner /= a.shape[1]
    inner += 1.0
    return inner * inner * inner


def _squared_tile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Lengths ride along as two more columns: one matrix product and no further pass.
    a2, b2 = (np.einsum("ij,ij->i", x, x)[:, None] for x in (a, b))
    left = np.concatenate([-2.0 * a, a2, np.ones_like(a2)], axis=1, dtype=a.dtype)
    right = np.concatenate([b, np.ones_like(b2), b2], axis=1, dtype=b.dtype)
    return left @ right.T


def _total(values: np.ndarray) -> float:
    """Sum of a tile: its rows in their own dtype (pairwise), the rows in float64."""
    return float(values.sum(axis=1).sum(dtype=np.float64))


def cross_sum(a: np.ndarray, b: np.ndarray, tile: Tile) -> float:
    """Sum of the kernel over all pairs of a row of ``a`` and a row of ``b``."""
    return sum(
        _total(tile(a[i : i + TILE_ROWS], b[j : j + TILE_ROWS]))
        for i in range(0, len(a), TILE_ROWS)
        for j in range(0, len(b), TILE_ROWS)
    )


def self_sum(a: np.ndarray, tile: Tile) -> float:
    """Sum of the kernel over all ordered pairs of different rows of ``a``."""
    total = 0.0
    for i in range(0, len(a), TILE_ROWS):
        left = a[i : i + TILE_ROWS]
        same = tile(left, left)
        np.fill_diagonal(same, 0.0)
        total += _total(same)
        total += 2.0 * cross_sum(left, a[i + TILE_ROWS :], tile)
    return total


def block_sums(
    parts: Sequence[np.ndarray], reference: np.ndarray, reference_self: float, tile: Tile
) -> PairSums:
    """Kernel sums of the generated blocks ``parts``; ``reference_self`` as by ``self_sum``."""
    count = len(parts)
    within = np.zeros((count, count))
    for a, part in enumerate(parts):
        within[a, a] = self_sum(part, tile)
        for b in range(a + 1, count):
            within[a, b] = within[b, a] = cross_sum(part, parts[b], tile)
    cross = np.array([cross_sum(part, reference, tile) for part in parts])
    sizes = np.array([len(part) for part in parts])
    return PairSums(within, cross, reference_self, sizes, len(reference))


def split(features: np.ndarray, blocks: np.ndarray) -> list[np.ndarray]:
    """Rows of every block: ``blocks`` ``(n,)`` holds ids 0..g-1."""
    return [features[blocks == b] for b in range(int(np.max(blocks)) + 1)]


def distance_dtype(n: int, m: int) -> type[np.floating]:
    """float32 tiles where there are many pairs, else float64.

    After centring, a float32 distance is wrong by about 1e-7 of the points' norms with either sign;
    the mean over millions of them (summed in float64) is wrong by far less, and by four orders of
    magnitude less than the sampling error of an energy distance at that many pairs.
    """
    return np.float64 if n * m <= _FLOAT64_PAIRS else np.float32
