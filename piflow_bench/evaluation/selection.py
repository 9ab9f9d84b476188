"""Which samples to show: picked by stated rules from scores of every sample, never by hand."""

from __future__ import annotations

import numpy as np
import torch

_ROWS = 512


def nearest(queries: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance ``(q,)`` from ``(q, d)`` to the nearest of base ``(m, d)``, and which.

    The nearest is found by float32 products of centred rows, its distance by differences in
    float64: a copy is at distance 0.
    """
    centre = base.mean(axis=0, dtype=np.float64)
    b = torch.from_numpy(np.asarray(base - centre, np.float32))
    norms = (b * b).sum(1)
    found = []
    for low in range(0, len(queries), _ROWS):
        q = torch.from_numpy(np.asarray(queries[low : low + _ROWS] - centre, np.float32))
        found.append((norms - 2 * (q @ b.T)).argmin(1))
    index = torch.cat(found).numpy()
    gap = np.asarray(queries, np.float64) - base[index]
    return np.sqrt(np.einsum("ij,ij->i", gap, gap)), index


def extremes(scores: np.ndarray, count: int, largest: bool) -> np.ndarray:
    """Indices of the ``count`` smallest or largest of ``(n,)``, the most extreme first."""
    return np.argsort(-scores if largest else scores, kind="stable")[:count]


def share_below(distances: np.ndarray, usual: np.ndarray, level: float = 0.05) -> float:
    """Share of ``distances`` below the ``level`` quantile of ``usual`` ones.

    With distances to the nearest training image, and those of held-out images as the usual ones:
    about ``level`` where nothing is memorised, 1 for copies.
    """
    return float(np.mean(distances < np.quantile(usual, level)))
