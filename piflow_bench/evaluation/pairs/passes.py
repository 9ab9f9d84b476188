"""The passes over all pairs of points that the asked metrics share.

Kernel sums, radii and ball membership are read off the same strips: one pass within the reference
(its facts are kept), one within the generated set where a metric needs it, and one across.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from piflow_bench.evaluation.pairs.balls import (
    Balls,
    neighbours_for_replicates,
    radii_without_blocks,
)
from piflow_bench.evaluation.pairs.kernels import Kernel, KernelSums, cubic, directions, distance
from piflow_bench.evaluation.pairs.nearest import Nearest
from piflow_bench.evaluation.pairs.sums import PairSums
from piflow_bench.evaluation.pairs.tiles import Frame, Points, Strip, pair_dtype, strips
from piflow_bench.evaluation.uncertainty import Replicated, mean_with_replicates

CMMD_SIGMA = 10.0
KERNELS: dict[str, Kernel] = {
    "cubic": cubic,
    "directions": directions(CMMD_SIGMA),
    "distance": distance,
}


@dataclass(frozen=True)
class Wanted:
    """What metrics read off the passes."""

    kernels: frozenset[str] = frozenset()
    balls: bool = False
    """Precision, density and coverage."""
    recall: bool = False
    authentic: bool = False

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(
            self.kernels | other.kernels,
            self.balls or other.balls,
            self.recall or other.recall,
            self.authentic or other.authentic,
        )


@dataclass(frozen=True)
class ReferenceFacts:
    """What is known of the reference alone, and serves every generated set."""

    kernels: dict[str, float] = field(default_factory=dict)
    """Kernel sums over ordered pairs of different points."""
    squared_radii: Tensor | None = None
    """To the k-th neighbour."""
    nearest: Tensor | None = None
    """Squared distances to the nearest other point."""


@dataclass(frozen=True)
class Passed:
    """What the passes found."""

    kernels: dict[str, PairSums]
    balls: dict[str, Replicated]
    authentic: Replicated | None


class _Consumer(Protocol):
    def add(self, strip: Strip) -> None: ...


def _run(
    consumers: Sequence[_Consumer], rows: Points, columns: Points | None, height: int | None
) -> None:
    if not consumers:
        return
    for strip in strips(rows, columns, height):
        for consumer in consumers:
            consumer.add(strip)


def squared_radii(x: Tensor, k: int, height: int | None = None) -> Tensor:
    """Squared distances ``(n,)`` of ``(n, d)`` points to their k-th nearest other point.

    Duplicates are points of their own: a point repeated k times has radius 0.
    """
    points = Points.of(x, Frame.around(x, dtype=pair_dtype(len(x), len(x))))
    search = Nearest(points, points, k)
    _run([search], points, None, height)
    return search.result()[0][:, -1]


def framed(x: Tensor, y: Tensor) -> Points:
    """Reference points ``y`` in the frame of a comparison with ``x``, both ``(., d)``."""
    return Points.of(y, Frame.around(x, y, dtype=pair_dtype(len(x), len(y))))


def reference_facts(
    points: Points,
    kernels: Sequence[str] = (),
    k: int | None = None,
    nearest: bool = False,
    height: int | None = None,
) -> ReferenceFacts:
    """Facts of the reference, in one pass.

    Args:
        points: as by ``framed``.
        kernels: names of ``KERNELS``.
        k: neighbours of the balls; None for no balls.
        nearest: whether the distances to the nearest other point are wanted.
        height: rows of a strip.
    """
    y = points.exact
    one = torch.zeros(len(y), dtype=torch.int64, device=y.device)
    sums = {name: KernelSums(KERNELS[name], one) for name in kernels}
    count = max(k or 0, int(nearest))
    search = Nearest(points, points, count) if count else None
    _run([*sums.values(), *([search] if search else [])], points, None, height)
    found = search.result()[0] if search else None
    radii = found[:, k - 1] if k is not None and found is not None else None
    first = found[:, 0] if nearest and found is not None else None
    return ReferenceFacts({n: float(s.total[0, 0]) for n, s in sums.items()}, radii, first)


def measure(
    x: Tensor,
    ref: Points,
    blocks: np.ndarray,
    facts: ReferenceFacts,
    wanted: Wanted,
    k: int = 3,
    comparator: str = "le",
    height: int | None = None,
) -> Passed:
    """What is wanted of generated ``(n, d)`` float64 against reference points, as by ``framed``.

    ``blocks`` ``(n,)`` are block ids 0..g-1; ``facts`` hold what is wanted of the reference, for
    the same k.
    """
    if (np.diff(blocks) < 0).any():
        order = np.argsort(blocks, kind="stable")
        x, blocks = x[torch.from_numpy(order).to(x.device)], blocks[order]
    ids = torch.from_numpy(blocks.astype(np.int64)).to(x.device)
    count = int(ids.max()) + 1
    gen = Points.of(x, ref.frame)

    inside = {name: KernelSums(KERNELS[name], ids) for name in sorted(wanted.kernels)}
    search = None
    if wanted.recall:
        search = Nearest(gen, gen, neighbours_for_replicates(k, len(x), count))
    _run([*inside.values(), *([search] if search else [])], gen, None, height)
    radii = without = None
    if search is not None:
        squared, index = search.result()
        radii = squared[:, k - 1]
        if count > 1:
            without = radii_without_blocks(gen, k, ids, squared, index, height)

    one = torch.zeros(len(ref), dtype=torch.int64, device=x.device)
    across = {name: KernelSums(KERNELS[name], one, ids) for name in inside}
    consumers: list[_Consumer] = [*across.values()]
    balls = copies = None
    if wanted.balls or wanted.recall:
        assert facts.squared_radii is not None
        balls = Balls(ref, gen, ids, facts.squared_radii, radii, without, comparator)
        consumers.append(balls)
    if wanted.authentic:
        copies = Nearest(gen, ref, 1, by_column=True)
        consumers.append(copies)
    _run(consumers, ref, gen, height)

    sizes = np.bincount(blocks)
    kernels = {
        name: PairSums(
            inside[name].total.cpu().numpy(),
            across[name].total[0].cpu().numpy(),
            facts.kernels[name],
            sizes,
            len(ref),
        )
        for name in inside
    }
    authentic = None
    if copies is not None:
        assert facts.nearest is not None
        squared, index = copies.result()
        new = squared[:, 0] > facts.nearest[index[:, 0]]
        authentic = mean_with_replicates(100.0 * new.cpu().numpy(), blocks)
    return Passed(kernels, balls.result(k) if balls else {}, authentic)
