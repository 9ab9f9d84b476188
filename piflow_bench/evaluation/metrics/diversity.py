"""Diversity within one set of features, without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from piflow_bench.evaluation.metrics import spectral
from piflow_bench.evaluation.metrics.distances import row_lengths, unit_rows
from piflow_bench.evaluation.moments import gram, split


def _effective_number(eigenvalues: np.ndarray) -> float:
    """Exponential of the entropy of a spectrum that sums to 1."""
    p = eigenvalues[eigenvalues > 1e-15]
    return float(np.exp(-np.sum(p * np.log(p))))


def _to_unit_rows(rows: np.ndarray) -> None:
    rows *= 1.0 / row_lengths(rows)


def vendi_replicates(features: np.ndarray, blocks: np.ndarray) -> tuple[float, np.ndarray]:
    """Vendi score, and the same with each block ``(n,)`` left out.

    The n x n cosine kernel and the d x d Gram matrix of the unit rows share their non-zero
    spectrum; the smaller one is used. The Gram matrix loses a block by subtraction, or to second
    order (see ``spectral``), the kernel by dropping rows and columns.
    """
    n, d = features.shape
    sizes = np.bincount(blocks)
    row_lengths(features)  # A row of zeros is refused by its place among all.
    if n <= d:
        z = unit_rows(features)
        kernel = z @ z.T
        kept = [np.flatnonzero(blocks != b) for b in range(len(sizes))]
        left = [
            np.linalg.eigvalsh(kernel[np.ix_(k, k)] / len(k)) if len(k) else np.zeros(0)
            for k in kept
        ]
        whole = np.linalg.eigvalsh(kernel / n)
    elif len(sizes) == 1:
        whole, left = np.linalg.eigvalsh(gram(features, _to_unit_rows) / n), []
    else:
        if spectral.may_expand(d, n - int(sizes.max())):
            found = _expanded_vendi(features, blocks, sizes)
            if found is not None:
                return found
        grams = [gram(part, _to_unit_rows) for part in split(features, blocks)]
        total = reduce(np.add, grams)
        left = [
            np.linalg.eigvalsh((total - g) / (n - s)) for g, s in zip(grams, sizes, strict=True)
        ]
        whole = np.linalg.eigvalsh(total / n)
    return _effective_number(whole), np.array([_effective_number(values) for values in left])


def _expanded_vendi(
    features: np.ndarray, blocks: np.ndarray, sizes: np.ndarray
) -> tuple[float, np.ndarray] | None:
    """The same from one decomposition, or None where the expansion does not hold."""
    n = len(features)
    values, vectors = np.linalg.eigh(gram(features, _to_unit_rows) / n)
    use = spectral.positive(values)
    known = values[use]
    # In these coordinates the mean of outer products is the identity.
    axes = (vectors[:, use] / np.sqrt(known)).astype(np.float32)

    def change(b: int) -> np.ndarray:
        z = unit_rows(features[blocks == b]).astype(np.float32) @ axes
        without = z.T @ z
        without /= -(n - sizes[b])
        without[np.diag_indices(len(known))] += sizes[b] / (n - sizes[b])
        return without

    entropies = spectral.replicates(spectral.ENTROPY, known, change, len(sizes))
    return None if entropies is None else (_effective_number(values), np.exp(entropies))


def vendi(features: np.ndarray) -> float:
    """Vendi score of order 1 with the cosine kernel (Friedman & Dieng 2023), 1 to n.

    The effective number of different samples in ``(n, d)``; it grows with n, so fix n to compare.
    """
    return vendi_replicates(features, np.zeros(len(features), dtype=int))[0]


def pairwise_replicates(
    features: np.ndarray, labels: np.ndarray | None, blocks: np.ndarray
) -> tuple[float, np.ndarray]:
    """Mean pairwise cosine distance, and the same with each block ``(n,)`` left out."""
    z = unit_rows(features)
    count = int(np.max(blocks)) + 1
    classes = np.zeros(len(z), int) if labels is None else np.unique(labels, return_inverse=True)[1]
    cell = classes.ravel() * count + blocks
    total = int(classes.max()) + 1
    flat = np.zeros((total * count, z.shape[1]))
    np.add.at(flat, cell, z)
    sums = flat.reshape(total, count, -1)
    sizes = np.bincount(cell, minlength=total * count).reshape(total, count)
    whole, size = sums.sum(axis=1), sizes.sum(axis=1)
    left = [_mean_distance(whole - sums[:, b], size - sizes[:, b]) for b in range(count)]
    return _mean_distance(whole, size), np.array(left)


def _mean_distance(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Mean over classes with 2 or more samples; NaN where there is none."""
    use = sizes >= 2
    if not use.any():
        return float("nan")
    # The squared length of a sum of unit vectors is its size plus all off-diagonal cosines.
    cosine = (np.einsum("ij,ij->i", sums, sums)[use] - sizes[use]) / (sizes[use] * (sizes[use] - 1))
    return float(np.mean(1.0 - cosine))


@dataclass(frozen=True)
class PairDistances:
    """Distances ``(g, g)`` between the samples of one group, which are ``rows`` ``(g,)`` of all."""

    rows: np.ndarray
    distances: np.ndarray


def mean_within(groups: Sequence[PairDistances], blocks: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over groups of the mean distance of their pairs, and the same without each block.

    Groups of fewer than 2 samples are passed over; NaN where none is left.
    """

    def mean(block: int | None) -> float:
        means = []
        for group in groups:
            kept = blocks[group.rows] != block
            size = int(kept.sum())
            if size >= 2:
                inner = group.distances[np.ix_(kept, kept)]
                means.append((inner.sum() - np.trace(inner)) / (size * (size - 1)))
        return float(np.mean(means)) if means else float("nan")

    return mean(None), np.array([mean(b) for b in range(int(blocks.max()) + 1)])


def vendi_within(
    features: np.ndarray, labels: np.ndarray, blocks: np.ndarray
) -> tuple[float, np.ndarray]:
    """Mean over classes of the Vendi score within each, and the same without each block."""

    def mean(kept: np.ndarray) -> float:
        scores = [vendi(features[kept & (labels == c)]) for c in np.unique(labels[kept])]
        return float(np.mean(scores)) if scores else float("nan")

    left = [mean(blocks != b) for b in range(int(blocks.max()) + 1)]
    return mean(np.ones(len(labels), bool)), np.array(left)


def pairwise_distance(features: np.ndarray, labels: np.ndarray | None = None) -> float:
    """1 - mean cosine between different samples of ``(n, d)``, 0 to 2, without visiting pairs.

    With ``labels`` ``(n,)`` the mean over classes (of at least 2 samples) of the value within each.
    """
    return pairwise_replicates(features, labels, np.zeros(len(features), dtype=int))[0]
