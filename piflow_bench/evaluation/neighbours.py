"""Precision, recall, density, coverage and AuthPct, with every delete-block replicate.

Radii are distances to the k-th nearest neighbour within the same set, the point itself left out.
The reference stays fixed, so blocks are deleted from the generated set only: precision, density and
AuthPct are means over generated points; coverage needs to know which blocks reach into a reference
point's ball; recall also needs the radii that generated points have without each block, which a few
extra neighbours per point give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from piflow_bench.evaluation.nearest import (
    Frame,
    Points,
    compares,
    exact_squared,
    inside,
    nearest,
    strips,
)

_EXTRA_NEIGHBOURS = 8
_PRUNE_BLOCKS = 2


@dataclass(frozen=True)
class Replicated:
    """A value and its delete-one-block values ``(g,)``."""

    value: float
    replicates: np.ndarray


def knn_radii(x: np.ndarray, k: int, block: int | None = None) -> np.ndarray:
    """Distance ``(n,)`` of every point of ``(n, d)`` to its k-th nearest other point, 1 <= k < n.

    Duplicates are points of their own: a point repeated k times has radius 0.
    """
    return np.sqrt(squared_radii(x, k, block))


def squared_radii(x: np.ndarray, k: int, block: int | None = None) -> np.ndarray:
    """Squared ``knn_radii``."""
    points = Points.of(np.asarray(x, np.float64), Frame.around(np.asarray(x, np.float64)))
    return nearest(points, points, k, np.arange(len(x)), block)[0][:, -1]


def radii_without_blocks(
    x: Points, k: int, blocks: np.ndarray, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Squared radii ``(n,)``, and ``(n, g)`` with each block deleted (a point's own block: all).

    k + extra neighbours decide nearly all entries; where a block holds too many of them, the
    neighbours are searched again among the other blocks.
    """
    n, count = len(x.low), int(blocks.max()) + 1
    wanted = min(n - 1, 2 * k + _EXTRA_NEIGHBOURS)
    squared, index = nearest(x, x, wanted, np.arange(n), block)
    neighbour_block = blocks[index]
    without = np.repeat(squared[:, k - 1 : k], count, axis=1)
    if count == 1:
        return squared[:, k - 1], without
    for b in range(count):
        left = np.cumsum(neighbour_block != b, axis=1)
        position = np.argmax(left == k, axis=1)
        other = blocks != b
        known = other & (left[:, -1] >= k)
        without[known, b] = squared[known, position[known]]
        lacking = np.flatnonzero(other & ~known)
        if len(lacking):
            rest = np.flatnonzero(other)
            queries, base = _subset(x, lacking), _subset(x, rest)
            itself = np.searchsorted(rest, lacking)
            without[lacking, b] = nearest(queries, base, k, itself, block)[0][:, -1]
    return squared[:, k - 1], without


def _subset(points: Points, rows: np.ndarray) -> Points:
    return Points(
        points.exact[rows], points.low[rows], points.norms[rows], points.scale, points.error
    )


def neighbour_metrics(
    generated: np.ndarray,
    reference: np.ndarray,
    k: int = 3,
    comparator: str = "le",
    blocks: np.ndarray | None = None,
    reference_squared: np.ndarray | None = None,
    block: int | None = None,
    recall: bool = True,
) -> dict[str, Replicated]:
    """Precision, recall, density and coverage in one pass over the cross distances.

    ``generated`` ``(n, d)``, ``reference`` ``(m, d)``, ``blocks`` ``(n,)`` ids 0..g-1 (default: one
    block, no replicates), ``reference_squared`` ``(m,)`` squared radii where known already.
    ``recall=False`` leaves recall out, and with it the search among generated points.
    """
    compares(np.zeros(1), np.zeros(1), comparator)
    x, y = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    ids = np.zeros(len(x), dtype=int) if blocks is None else blocks
    count = int(ids.max()) + 1
    frame = Frame.around(x, y)
    gen, ref = Points.of(x, frame), Points.of(y, frame)
    radii = squared_radii(y, k, block) if reference_squared is None else reference_squared
    contained = np.zeros(len(x), dtype=np.int64)
    covered = np.zeros((len(y), count), dtype=bool)
    recalled = np.zeros((len(y), count), dtype=bool)
    regained = np.zeros((len(y), count), dtype=bool)
    if recall:
        gen_radii, gen_without = radii_without_blocks(gen, k, ids, block)
        widest = gen_without.max(axis=1)
    for start, strip in strips(ref, gen, block):
        j, i, yes = inside(strip, start, ref, gen, radii, True, comparator)
        contained += np.bincount(i[yes], minlength=len(x))
        covered[j[yes], ids[i[yes]]] = True
        if not recall:
            continue
        j, i, yes = inside(strip, start, ref, gen, gen_radii, False, comparator, widest)
        recalled[j[yes], ids[i[yes]]] = True
        # A point held by two blocks stays recalled whichever block leaves: wider balls of the
        # others cannot change it.
        few = ~yes & (recalled[j].sum(axis=1) < _PRUNE_BLOCKS)
        j, i = j[few], i[few]
        d2 = exact_squared(ref.exact, gen.exact, j, i)
        # A point's column of its own block holds its plain radius, which these pairs exceed.
        wider = compares(d2[:, None], gen_without[i], comparator)
        pair, b = np.nonzero(wider)
        regained[j[pair], b] = True
    results = {
        "precision": _mean_over_generated(contained > 0, ids),
        "density": _mean_over_generated(contained / k, ids),
        "coverage": _share_of_reference(covered, np.zeros_like(covered)),
    }
    if recall:
        results["recall"] = _share_of_reference(recalled, regained)
    return results


def _mean_over_generated(scores: np.ndarray, ids: np.ndarray) -> Replicated:
    sums, sizes = np.bincount(ids, weights=scores), np.bincount(ids)
    left = len(ids) - sizes
    with np.errstate(invalid="ignore", divide="ignore"):
        return Replicated(float(np.mean(scores)), (sums.sum() - sums) / left)


def _share_of_reference(held: np.ndarray, regained: np.ndarray) -> Replicated:
    """Shares of rows held by any block, and by any other block than each in turn."""
    by = held.sum(axis=1)
    left = (by[:, None] - held > 0) | regained
    return Replicated(float(np.mean(by > 0)), left.mean(axis=0))


def authenticity(
    generated: np.ndarray,
    reference: np.ndarray,
    blocks: np.ndarray | None = None,
    reference_squared: np.ndarray | None = None,
    block: int | None = None,
) -> Replicated:
    """AuthPct with replicates; ``reference_squared`` ``(m,)``: squared distances to neighbour 1."""
    x, y = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    ids = np.zeros(len(x), dtype=int) if blocks is None else blocks
    own = squared_radii(y, 1, block) if reference_squared is None else reference_squared
    frame = Frame.around(x, y)
    squared, index = nearest(Points.of(x, frame), Points.of(y, frame), 1, block=block)
    return _mean_over_generated(100.0 * (squared[:, 0] > own[index[:, 0]]), ids)


def precision(
    generated: np.ndarray, reference: np.ndarray, k: int = 3, comparator: str = "le"
) -> float:
    """Share of generated points inside any reference ball (Kynkaanniemi et al. 2019), 0 to 1."""
    return neighbour_metrics(generated, reference, k, comparator, recall=False)["precision"].value


def recall(
    generated: np.ndarray, reference: np.ndarray, k: int = 3, comparator: str = "le"
) -> float:
    """Share of reference points inside any generated ball (Kynkaanniemi et al. 2019), 0 to 1."""
    return neighbour_metrics(generated, reference, k, comparator)["recall"].value


def density(
    generated: np.ndarray, reference: np.ndarray, k: int = 5, comparator: str = "lt"
) -> float:
    """Mean number of reference balls around a generated point, over k (Naeem et al. 2020), >= 0."""
    return neighbour_metrics(generated, reference, k, comparator, recall=False)["density"].value


def coverage(
    generated: np.ndarray, reference: np.ndarray, k: int = 5, comparator: str = "lt"
) -> float:
    """Share of reference balls that hold a generated point (Naeem et al. 2020), 0 to 1."""
    return neighbour_metrics(generated, reference, k, comparator, recall=False)["coverage"].value


def authpct(generated: np.ndarray, reference: np.ndarray) -> float:
    """Percentage of authentic samples (Alaa et al. 2022), 0 to 100.

    A sample is authentic if it is further from its nearest reference point than that point is from
    its own nearest neighbour; copies of the training set give 0.
    """
    return authenticity(generated, reference).value
