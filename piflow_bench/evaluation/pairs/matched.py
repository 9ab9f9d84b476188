"""Recall at a precision that is the same for everybody: that of precise samples alone.

Samples outside the reference's balls raise recall, for their own balls are large and swallow
reference points that nothing was generated near; so does asking a generator for more of them. What
is inside has precision 1 whoever generated it, and 1 is the only precision that every set reaches
by leaving samples out. Recall also depends on how many samples there are, so that all are compared
at one number: groups of a ``PART``-th of what was generated, however many were left out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from piflow_bench.evaluation.pairs.balls import Balls
from piflow_bench.evaluation.pairs.passes import ReferenceFacts, Wanted, measure
from piflow_bench.evaluation.pairs.tiles import Points, strips
from piflow_bench.evaluation.uncertainty import Replicated

PART = 10
"""A group has this part of the generated samples: what a bad student still has inside the balls."""
SEED = 2020


def inside(
    x: Tensor, ref: Points, squared_radii: Tensor, comparator: str, height: int | None = None
) -> np.ndarray:
    """Whether each of ``x`` ``(n, d)`` lies in a ball of the reference; ``(n,)`` bool."""
    gen = Points.of(x, ref.frame)
    one = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    balls = Balls(ref, gen, one, squared_radii, None, None, comparator)
    for strip in strips(ref, gen, height):
        balls.add(strip)
    return (balls.contained > 0).cpu().numpy()


def matched_recall(
    x: Tensor,
    ref: Points,
    blocks: np.ndarray,
    facts: ReferenceFacts,
    k: int = 3,
    comparator: str = "le",
    height: int | None = None,
) -> Replicated:
    """Mean recall of groups of precise samples, and the same without each block.

    The samples inside the reference's balls are dealt at random (a fixed draw) to groups of
    n // ``PART``; what is left over is not used. NaN where there is no whole group, or where one
    would be no larger than k without a block.

    Args:
        x: generated features ``(n, d)`` float64.
        ref: reference points, as by ``passes.framed``.
        blocks: block ids ``(n,)``, 0..g-1.
        facts: of the reference, with its radii for the same k.
        k: neighbours of the balls of both sides.
        comparator: "le" or "lt".
        height: rows of a strip.
    """
    assert facts.squared_radii is not None
    count = int(blocks.max()) + 1
    size = len(x) // PART
    kept = np.flatnonzero(inside(x, ref, facts.squared_radii, comparator, height))
    order = np.random.RandomState(SEED).permutation(kept)
    groups = [np.sort(order[i : i + size]) for i in range(0, len(order) - size + 1, size or 1)]
    most = max((int(np.bincount(blocks[g]).max()) for g in groups), default=0)
    left = size - (most if count > 1 else 0)
    if not groups or left <= k:
        return Replicated(float("nan"), np.full(count if count > 1 else 0, np.nan))
    found = [
        measure(
            x[torch.from_numpy(g).to(x.device)], ref, blocks[g], facts, Wanted(recall=True),
            k, comparator, height,
        ).balls["recall"]
        for g in groups
    ]  # fmt: skip
    values = np.array([each.value for each in found])
    replicates = np.repeat(values[:, None], count, axis=1)
    for row, each in zip(replicates, found, strict=True):
        # A group may have nothing of the last blocks: without them it is the same.
        row[: len(each.replicates)] = each.replicates
    return Replicated(float(values.mean()), replicates.mean(axis=0) if count > 1 else np.zeros(0))
