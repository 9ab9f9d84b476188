"""Distances between the distributions of two sets of features.

All take float arrays ``(n, d)`` and ``(m, d)`` and compute in float64 unless stated.
"""

from __future__ import annotations

import numpy as np

from piflow_bench.evaluation.design import Strata
from piflow_bench.evaluation.pairs.stratified import Weights, draw_subset
from piflow_bench.evaluation.pairs.sums import PairSums, u_statistic, v_statistic

CMMD_SCALE = 1000.0


def kid_draws(
    n: int,
    m: int,
    subsets: int,
    size: int,
    seed: int,
    groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
) -> list[tuple]:
    """Index pairs ``(size,), (size,)`` of KID's subsets, in torch-fidelity's order of drawing.

    Where samples have strata, with ``groups`` ``(n,)``, or ``(m,)`` of the reference, subsets are
    drawn group by group.
    """
    if size > min(n, m) or size < 2 or subsets < 1:
        raise ValueError(f"KID subsets of {size} need 2 <= size <= {min(n, m)} and subsets >= 1")
    rng = np.random.RandomState(seed)

    def draw(total: int, of: np.ndarray | None) -> np.ndarray:
        if of is None:
            return rng.choice(total, size, replace=False)
        return draw_subset(of, size, rng)

    return [(draw(n, groups), draw(m, reference_groups)) for _ in range(subsets)]


def _cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    inner = a @ b.T
    inner /= a.shape[1]
    inner += 1.0
    return inner * inner * inner


def kid_subset_values(
    generated: np.ndarray,
    reference: np.ndarray,
    draws: list[tuple],
    blocks: np.ndarray,
    strata: Strata | None = None,
    reference_strata: Strata | None = None,
) -> np.ndarray:
    """Unbiased MMD^2 of every subset, of all its points and without each block: ``(S, 1 + g)``.

    Args:
        generated: ``(n, d)``.
        reference: ``(m, d)``.
        draws: S subsets, as by ``kid_draws``.
        blocks: ids ``(n,)``, 0..g-1, of generated samples; one block gives ``(S, 1)``.
        strata: groups of the generated side that subsets were drawn by.
        reference_strata: the same of the reference.
    """
    x, y = np.asarray(generated, np.float64), np.asarray(reference, np.float64)
    one = np.zeros(len(y), dtype=np.int64)
    values = []
    for mine, theirs in draws:
        a, b = x[mine], y[theirs]
        inside, known, across = _cubic(a, a), _cubic(b, b), _cubic(a, b)
        np.fill_diagonal(inside, 0.0)
        np.fill_diagonal(known, 0.0)
        ours = Weights.of(mine, strata, blocks)
        other = Weights.of(theirs, reference_strata, one)
        between = (across @ other.points[:, 0]) @ ours.points
        values.append(ours.within(inside) + other.within(known) - 2.0 * between)
    return np.array(values)


def kid_subsets(
    generated: np.ndarray,
    reference: np.ndarray,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Mean and spread (ddof 0) of the unbiased MMD^2 over random subsets: KID as usually quoted.

    Binkowski et al. 2018; equal to torch-fidelity's for the same seed, up to its float32. The
    spread is that of one subset, not the error of the mean.
    """
    draws = kid_draws(len(generated), len(reference), subsets, subset_size, seed)
    blocks = np.zeros(len(generated), dtype=int)
    values = kid_subset_values(generated, reference, draws, blocks)
    return float(np.mean(values)), float(np.std(values))


def row_lengths(features: np.ndarray) -> np.ndarray:
    """Lengths ``(n, 1)`` of the rows of ``(n, d)``, float64; a row of zeros raises ValueError."""
    squares = np.einsum("ij,ij->i", features, features, dtype=np.float64, casting="unsafe")
    lengths = np.sqrt(squares)[:, None]
    if not np.all(lengths > 0):
        raise ValueError(f"row {int(np.argmin(lengths))} is all zeros and has no direction")
    return lengths


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64; a row of zeros raises ValueError."""
    return np.asarray(features, dtype=np.float64) * (1.0 / row_lengths(features))


def kid_exact(sums: PairSums, block: int | None = None) -> float:
    """Unbiased MMD^2 with KID's kernel over all pairs: no subsets, no seed. May be below 0."""
    return u_statistic(sums, block)


def cmmd(sums: PairSums, block: int | None = None) -> float:
    """1000 x MMD^2 with a Gaussian kernel of sigma 10 on rows scaled to length 1.

    Jayasumana et al. 2024, with the biased V-statistic of their published code.
    """
    return CMMD_SCALE * v_statistic(sums, block)


def energy_distance(sums: PairSums, block: int | None = None) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Szekely & Rizzo 2013), not its square root.

    The unbiased U-statistic: means over pairs of *different* points, so equal distributions give 0
    on average and values below 0 occur.
    """
    return -u_statistic(sums, block)
