"""KID's cubic kernel summed through third moments, without visiting pairs.

With x' = (x / sqrt(d), 1) the kernel is (x'.y')^3 = <T(x), T(y)>, T(x) = x' (x) x' (x) x', so the
sum over all pairs of two sets is the inner product of their summed tensors: O((n + m) d^3) instead
of O(n m d), and every delete-block replicate for nothing.
"""

from __future__ import annotations

import numpy as np

from piflow_bench.evaluation.moments import split
from piflow_bench.evaluation.pairs.sums import PairSums

_COLUMNS = 2048
_TILE_OVERHEAD = 16
"""Cost of a kernel value beyond its inner product, in multiply-adds."""


def third_moment(features: np.ndarray) -> np.ndarray:
    """Summed tensor of ``(n, d)`` features as a vector whose inner products are the full ones.

    Only entries whose first index is the smallest are kept; their weights (3, 3/2 or 1, by how many
    of the ordered entries each stands for) are split evenly between the two factors.
    """
    x = np.asarray(features, dtype=np.float64)
    n, d = x.shape
    columns = np.concatenate([x.T / np.sqrt(d), np.ones((1, n))])
    slabs = [np.zeros((d + 1 - i, d + 1 - i)) for i in range(d + 1)]
    for start in range(0, n, _COLUMNS):
        part = np.ascontiguousarray(columns[:, start : start + _COLUMNS])
        for i, slab in enumerate(slabs):
            slab += (part[i:] * part[i]) @ part[i:].T
    for slab in slabs:
        slab[1:, 1:] *= np.sqrt(3.0)
        slab[0, 1:] *= np.sqrt(1.5)
        slab[1:, 0] *= np.sqrt(1.5)
    return np.concatenate([slab.ravel() for slab in slabs])


def diagonal_sum(features: np.ndarray) -> float:
    """Sum of k(x, x) over the rows of ``(n, d)``."""
    x = np.asarray(features, dtype=np.float64)
    return float(np.sum((np.einsum("ij,ij->i", x, x) / x.shape[1] + 1.0) ** 3))


def prefers_moments(n: int, m: int, d: int) -> bool:
    """Whether third moments cost less than tiles over all pairs."""
    pairs = n * m + (n * n + m * m) / 2
    return (n + m) * (d + 1) ** 3 / 3 < pairs * (d + _TILE_OVERHEAD)


def reference_facts(reference: np.ndarray) -> tuple[float, np.ndarray]:
    """Kernel sum over pairs of different reference points, and their tensor."""
    tensor = third_moment(reference)
    return float(tensor @ tensor) - diagonal_sum(reference), tensor


def cubic_sums(
    generated: np.ndarray,
    blocks: np.ndarray,
    reference_count: int,
    facts: tuple[float, np.ndarray],
) -> PairSums:
    """Sums of KID's kernel per block; ``facts`` from ``reference_facts``."""
    reference_self, tensor = facts
    parts = list(split(generated, blocks))
    tensors = np.stack([third_moment(part) for part in parts])
    within = tensors @ tensors.T
    within[np.diag_indices(len(parts))] -= [diagonal_sum(part) for part in parts]
    sizes = np.array([len(part) for part in parts])
    return PairSums(within, tensors @ tensor, reference_self, sizes, reference_count)
