"""Pair statistics of balanced designs: pairs within groups weigh what they weigh in the population.

Of n samples, n_c each from C groups by decision, two have one group less often, (n_c - 1)/(n - 1),
than two draws have, n_c / n. The plain mean over pairs is therefore off by as much as pairs within
groups differ from pairs across. The stratified mean has the population's weights,

    sum_c (n_c/n)^2 S_cc / (n_c (n_c - 1)) + sum_{c != d} (n_c/n)(n_d/n) S_cd / (n_c n_d)
        = (S + sum_c S_cc / (n_c - 1)) / n^2,

with the sums S over all pairs of different points and S_cc over those within group c. It needs no
sum beyond the plain one but S_cc. KID's random subsets are drawn group by group, so that their
shares of the groups are not left to chance, and are weighed in the same way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from piflow_bench.evaluation.design import table
from piflow_bench.evaluation.mmd import PairSums

if TYPE_CHECKING:
    from torch import Tensor

    from piflow_bench.evaluation.kernels import Kernel


IN_A_SUBSET = 4
"""Points of a group in a subset, from which on it is drawn group by group."""


def stratify(sums: PairSums, own: np.ndarray | None, reference_own: float | None) -> PairSums:
    """Sums whose U-statistic has the population's weights.

    Args:
        sums: over all pairs.
        own: ``(1 + g,)`` as by ``own_pairs``, or ``(1,)`` where no block is left out; None where
            the generated sample is no balanced design.
        reference_own: the same of the reference.
    """
    if own is not None:
        n = sums.counts.sum() - np.concatenate([[0], sums.counts])
        within = [sums.without(block)[0] for block in (None, *range(len(own) - 1))]
        added = [_added(*each) for each in zip(within, own, n[: len(own)], strict=True)]
        sums = replace(sums, added=np.array(added))
    if reference_own is not None:
        added_there = _added(sums.reference, reference_own, sums.reference_count)
        sums = replace(sums, reference_added=added_there)
    return sums


def _added(within: float, own: float, n: int) -> float:
    """What makes a plain mean over the pairs of n points, sum / (n (n - 1)), the stratified one."""
    return float((within + own) * (n - 1) / n - within)


def own_pairs(
    kernel: Kernel,
    x: Tensor,
    groups: np.ndarray,
    blocks: np.ndarray | None = None,
    height: int | None = None,
) -> np.ndarray:
    """Sum over groups of S_cc / (n_c - 1), of all and without each block: ``(1 + g,)``.

    Args:
        kernel: as the sums over all pairs have it.
        x: points ``(n, d)`` float64.
        groups: ids ``(n,)``, 0..C-1.
        blocks: ids ``(n,)``, 0..g-1; None: nothing is left out, and the result is ``(1,)``.
        height: rows of a strip.
    """
    import torch

    from piflow_bench.evaluation.tiles import Frame, Points, pair_dtype, strips

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
        left = whole + np.diagonal(sums) - 2.0 * sums.sum(axis=1)
        found[0] += whole / (n - 1)
        found[1:] += (left / (n - counts[group] - 1))[: len(found) - 1]
    return found


def draw_subset(groups: np.ndarray, size: int, rng: np.random.RandomState) -> np.ndarray:
    """Rows ``(size,)`` with every group's share; of what does not divide, groups get one by lot."""
    count = int(groups.max()) + 1
    wanted = np.full(count, size // count)
    wanted[rng.permutation(count)[: size % count]] += 1
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups)
    place = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[place < np.repeat(wanted, sizes)]


def weights_of_subset(groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Weights ``(s,)`` of a subset's points, by which its groups have their shares of the whole."""
    share = np.bincount(groups) / len(groups)
    here = groups[rows]
    return (share * len(rows) / np.bincount(here, minlength=len(share)))[here]


def own_pairs_of_subset(
    kernel: np.ndarray, groups: np.ndarray, blocks: np.ndarray | None = None, count: int = 0
) -> np.ndarray:
    """As ``own_pairs``, of points whose kernel matrix ``(s, s)`` is at hand, its diagonal 0.

    ``blocks`` ``(s,)`` are ids below ``count``. A group that a block leaves no pair adds nothing.
    """
    same = np.where(groups[:, None] == groups, kernel, 0.0)
    rows = same.sum(axis=1)
    sizes = np.bincount(groups)
    whole = np.array([np.sum(rows / (sizes[groups] - 1))])
    if blocks is None or count < 2:
        return whole
    member = np.zeros((len(groups), count))
    member[np.arange(len(groups)), blocks] = 1.0
    left = sizes[:, None] - table(groups, blocks, count)
    others = (rows[:, None] - same @ member) * (1.0 - member)
    return np.concatenate([whole, (others / np.maximum(left - 1, 1)[groups]).sum(axis=0)])
