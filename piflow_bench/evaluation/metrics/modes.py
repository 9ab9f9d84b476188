"""Which modes of a known mixture in the plane were found, and in what shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NEAR = 3.0
_COVERED = 0.25
_RARE = 0.5


@dataclass(frozen=True)
class ModeCoverage:
    """Facts about samples against the modes of a mixture.

    ``share``: share of samples within 3 std of their nearest mode; ``covered``: number of modes
    that got at least a quarter of their expected count, and at least 1; ``mass``: the weight of
    those modes, 0..1; ``variation``: total variation between expected and observed mode shares
    (samples far from every mode count as a mode of weight 0), 0..1; ``rare``: share of rare modes
    among samples near a mode, over what it should be (1 is right, 0 if none is near any), None
    where no mode is rare.
    """

    share: float
    covered: int
    mass: float
    variation: float
    rare: float | None


def rare_modes(weights: np.ndarray) -> np.ndarray:
    """Which modes ``(K,)`` have some weight, and less than half of the mean."""
    weights = np.asarray(weights)
    return (weights > 0) & (weights < _RARE * weights.mean())


def mode_members(samples: np.ndarray, means: np.ndarray, std: float) -> np.ndarray:
    """Mode ``(n,)`` of every sample ``(n, 2)``: index of the nearest mean, -1 beyond 3 std."""
    offsets = samples[:, None, :].astype(np.float64) - means[None, :, :]
    squared = np.einsum("nkd,nkd->nk", offsets, offsets)
    nearest = squared.argmin(axis=1)
    inside = squared[np.arange(len(samples)), nearest] <= (_NEAR * std) ** 2
    return np.where(inside, nearest, -1)


def _coverage(counts: np.ndarray, n: int, weights: np.ndarray) -> ModeCoverage:
    covered = counts >= np.maximum(_COVERED * n * weights, 1.0)
    shares = counts / n
    outside, rare = 1.0 - shares.sum(), rare_modes(weights)
    near = max(int(counts.sum()), 1)
    return ModeCoverage(
        share=float(shares.sum()),
        covered=int(covered.sum()),
        mass=float(weights[covered].sum()),
        variation=float(0.5 * (np.abs(shares - weights).sum() + outside)),
        rare=float(counts[rare].sum() / near / weights[rare].sum()) if rare.any() else None,
    )


def mode_coverage(
    samples: np.ndarray, means: np.ndarray, std: float, weights: np.ndarray
) -> ModeCoverage:
    """Coverage of the modes at ``means`` ``(K, 2)`` with ``weights`` ``(K,)`` by ``(n, 2)``."""
    return mode_replicates(samples, means, std, weights, np.zeros(len(samples), dtype=int))[0]


def mode_replicates(
    samples: np.ndarray,
    means: np.ndarray,
    std: float,
    weights: np.ndarray,
    blocks: np.ndarray,
) -> tuple[ModeCoverage, list[ModeCoverage]]:
    """Coverage of all samples, and with each block ``(n,)`` left out (none if there is but one)."""
    weights = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    members = mode_members(samples, means, std)
    count, modes = int(np.max(blocks)) + 1, len(means)
    table = np.zeros((count, modes + 1), dtype=int)
    np.add.at(table, (blocks, members), 1)  # -1 lands in the last column
    sizes, whole = table.sum(axis=1), table.sum(axis=0)
    left = [
        _coverage((whole - table[b])[:modes], len(samples) - int(sizes[b]), weights)
        for b in range(count)
        if count > 1
    ]
    return _coverage(whole[:modes], len(samples), weights), left
