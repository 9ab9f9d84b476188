"""Pair statistics of samples whose groups' shares were decided: pairs weigh as in the population.

Of n samples, n_c each from C groups by decision, two have one group less often, (n_c - 1)/(n - 1),
than two draws have, n_c / n. The plain mean over pairs is therefore off by as much as pairs within
groups differ from pairs across. The stratified mean has the population's weights,

    sum_c (n_c/n)^2 S_cc / (n_c (n_c - 1)) + sum_{c != d} (n_c/n)(n_d/n) S_cd / (n_c n_d)
        = (S + sum_c S_cc / (n_c - 1)) / n^2,

with the sums S over all pairs of different points and S_cc over those within group c. It needs no
sum beyond the plain one but S_cc. Samples that keep the shares of N = n / f draws (f: the design's
``chance``) have those weights that N draws give pairs, N_c (N_c - 1) and N_c N_d over N (N - 1):

    (S + (1 - f) sum_c S_cc / (n_c - 1)) / (n (n - f)),

which is unbiased, the mean above at f = 0 and the plain mean over pairs at f = 1. KID's random
subsets are drawn group by group, so that their shares of the groups are not left to chance, and are
weighed in the same way, by the shares of all n.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from piflow_bench.evaluation.design import Strata, table
from piflow_bench.evaluation.pairs.sums import PairSums

if TYPE_CHECKING:
    from torch import Tensor

    from piflow_bench.evaluation.pairs.kernels import Kernel


IN_A_SUBSET = 3.5
"""Share of a group in a subset, in points, from which on the group is drawn by itself."""


def stratify(
    sums: PairSums,
    own: np.ndarray | None,
    reference_own: float | None,
    chance: float = 0.0,
    reference_chance: float = 0.0,
) -> PairSums:
    """Sums whose U-statistic has the population's weights.

    Args:
        sums: over all pairs.
        own: ``(1 + g,)`` as by ``own_pairs``, or ``(1,)`` where no block is left out; None where
            the generated sample has no strata.
        reference_own: the same of the reference.
        chance: f of the generated sample's design, 0 to 1.
        reference_chance: the same of the reference's.
    """
    if own is not None:
        n = sums.counts.sum() - np.concatenate([[0], sums.counts])
        within = [sums.without(block)[0] for block in (None, *range(len(own) - 1))]
        added = [_added(*each, chance) for each in zip(within, own, n[: len(own)], strict=True)]
        sums = replace(sums, added=np.array(added))
    if reference_own is not None:
        m = sums.reference_count
        there = _added(sums.reference, reference_own, m, reference_chance)
        sums = replace(sums, reference_added=there)
    return sums


def _added(within: float, own: float, n: int, chance: float) -> float:
    """What makes a plain mean over the pairs of n points, sum / (n (n - 1)), the stratified one."""
    return float((within + (1.0 - chance) * own) * (n - 1) / (n - chance) - within)


def own_pairs(
    kernel: Kernel,
    x: Tensor,
    groups: np.ndarray,
    blocks: np.ndarray | None = None,
    height: int | None = None,
) -> np.ndarray:
    """Sum over groups of S_cc / (n_c - 1), of all and without each block: ``(1 + g,)``.

    To a group that a block leaves no pair, the mean of all its pairs stands for that of the rest.

    Args:
        kernel: as the sums over all pairs have it.
        x: points ``(n, d)`` float64.
        groups: ids ``(n,)``, 0..C-1.
        blocks: ids ``(n,)``, 0..g-1; None: nothing is left out, and the result is ``(1,)``.
        height: rows of a strip.
    """
    import torch

    from piflow_bench.evaluation.pairs.tiles import Frame, Points, pair_dtype, strips

    ids = np.zeros(len(groups), dtype=np.int64) if blocks is None else blocks
    counts = table(groups, ids)
    one = torch.eye(counts.shape[1], dtype=torch.float64, device=x.device)
    found = np.zeros(1 if blocks is None else 1 + counts.shape[1])
    order = np.argsort(groups, kind="stable")
    for group, rows in enumerate(np.split(order, np.cumsum(counts.sum(axis=1))[:-1])):
        part = x[torch.from_numpy(rows).to(x.device)]
        member = one[torch.from_numpy(ids[rows]).to(x.device)]
        points = Points.of(part, Frame.around(part, dtype=pair_dtype(len(rows), len(rows))))
        total = torch.zeros_like(one)
        for strip in strips(points, None, height):
            values = kernel(strip)
            values.diagonal().fill_(0.0)
            high = len(values)
            # Products with the blocks' members: groups are many and small, their slices too.
            top, right = member[strip.row_slice], member[strip.first + high :]
            total += top.T @ values[:, :high].double() @ top
            beyond = top.T @ values[:, high:].double() @ right
            total += beyond + beyond.T
        sums = total.cpu().numpy()
        n, whole = len(rows), float(sums.sum())
        left, size = whole + np.diagonal(sums) - 2.0 * sums.sum(axis=1), n - counts[group]
        alone = size * whole / (n * (n - 1))
        found[0] += whole / (n - 1)
        without = np.where(size > 1, left / np.maximum(size - 1, 1), alone)
        found[1:] += without[: len(found) - 1]
    return found


def draw_subset(groups: np.ndarray, size: int, rng: np.random.RandomState) -> np.ndarray:
    """Rows ``(size,)`` with every group's share, rounded up or down: the largest remainders up.

    Among equal remainders the lot decides.
    """
    sizes = np.bincount(groups)
    shares = size * sizes / len(groups)
    wanted = np.floor(shares).astype(int)
    lot = rng.permutation(len(sizes))
    by_remainder = lot[np.argsort(-np.round(shares - wanted, 9)[lot], kind="stable")]
    wanted[by_remainder[: size - wanted.sum()]] += 1
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    place = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[place < np.repeat(wanted, sizes)]


@dataclass(frozen=True)
class Weights:
    """What a subset's s points weigh in means over pairs, of all and without each block.

    Columns are the 1 + g cases. Without a block the groups have the shares of what is left of all n
    samples: those of what is left of a subset vary by chance, which is no error of the mean over
    pairs. Of a group that a block leaves no pair in the subset, all points stay.
    """

    points: np.ndarray
    """``(s, 1 + g)``: share of its group over the group's points; 0 where it is left out."""
    kept: np.ndarray
    """``(s, 1 + g)``: 1 or 0."""
    own: np.ndarray
    """``(s, 1 + g)``: what pairs within its group weigh beyond the product of their points'."""
    scale: np.ndarray
    """``(1 + g,)``: n / (n - f)."""
    groups: np.ndarray
    """``(s,)``."""

    @classmethod
    def of(cls, rows: np.ndarray, strata: Strata | None, blocks: np.ndarray) -> Weights:
        """Of the points at ``rows`` ``(s,)``; without strata all are of one group.

        ``blocks`` ``(n,)`` are ids 0..g-1 of all samples; one block is none to be left out.
        """
        groups = np.zeros(len(blocks), dtype=np.int64) if strata is None else strata.groups
        chance = 0.0 if strata is None else strata.chance
        count, here = int(blocks.max()) + 1, groups[rows]
        members = table(groups, blocks, count)
        drawn = np.zeros_like(members)
        np.add.at(drawn, (here, blocks[rows]), 1)
        total, size = (_with_and_without(each) for each in (members, drawn))
        kept = np.ones((len(rows), 1 + count))
        kept[np.arange(len(rows)), 1 + blocks[rows]] = 0.0
        if count == 1:
            total, size, kept = total[:, :1], size[:, :1], kept[:, :1]
        alone = size < 2
        kept[alone[here]] = 1.0
        size = np.where(alone, size[:, :1], size)
        n = total.sum(axis=0)
        points = total / (n * size)
        own = points * (total - chance * size) / ((n - chance) * size * (size - 1))
        return cls(points[here] * kept, kept, own[here] * kept, n / (n - chance), here)

    def within(self, kernel: np.ndarray) -> np.ndarray:
        """Means ``(1 + g,)`` over pairs of different points, of ``(s, s)`` with a diagonal of 0."""
        same = np.where(self.groups[:, None] == self.groups, kernel, 0.0)
        plain = self.scale * np.sum(self.points * (kernel @ self.points), axis=0)
        return plain + np.sum(self.own * (same @ self.kept), axis=0)


def _with_and_without(counts: np.ndarray) -> np.ndarray:
    """Sums ``(C, 1 + g)`` of counts ``(C, g)`` over all blocks and over all but each."""
    whole = counts.sum(axis=1, keepdims=True)
    return np.concatenate([whole, whole - counts], axis=1)
