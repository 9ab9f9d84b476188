"""Leave-out values of sums over a spectrum, from one decomposition.

The Fréchet distance and the Vendi score are sums of f over the eigenvalues of a matrix A. Leaving a
block of samples out changes it to A + E, and a decomposition for each of twenty blocks takes most
of an evaluation's time. In the eigenbasis of A, to second order (Daleckii & Krein 1965)

    tr f(A + E) = sum_i f(l_i) + sum_i f'(l_i) E_ii + 1/2 sum_ij f'[l_i, l_j] E_ij^2,

with the divided differences f'[.,.] of the derivative. The first-order term alone, the influence of
the block, is not enough: where two samples are of one distribution the Fréchet distance is near its
least and the influences of both terms nearly cancel. The second-order term mends that.

Changes are given as E_ij / sqrt(l_i l_j): a block holds at most all of a direction's variance, so
that they are of size 1 however small the eigenvalues, and float32 suffices.

The rule. Few features (``EXACT_FEATURES``): exact values cost nothing. Fewer than ``PER_FEATURE``
samples a feature: a block takes whole directions away, and the series does not hold. Nor does it
where some block holds ``SHARE`` and more of a direction's variance, as outliers do. Else standard
errors are between a tenth too small and a fifth too large in all that was tried (outliers of every
size, tails, blocks unlike the others; ``tests/evaluation/metrics/test_frechet.py``), and within 4 %
for features of a network's kind. What all blocks share the jackknife does not see, so that a
remainder does no harm that is alike for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EXACT_FEATURES = 512
PER_FEATURE = 3.0
SHARE = 0.5


@dataclass(frozen=True)
class Summand:
    """f of a sum over a spectrum, for eigenvalues ``(r,)`` > 0, with its relative derivatives."""

    of: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    """l_i f'(l_i) ``(r,)``."""
    curvature: Callable[[np.ndarray], np.ndarray]
    """l_i l_j f'[l_i, l_j] ``(r, r)``."""

    def total(self, eigenvalues: np.ndarray) -> float:
        """The sum; rounding leaves tiny negative eigenvalues, which stand for zeros."""
        return float(self.of(eigenvalues[eigenvalues > 0]).sum())


def _root_curvature(values: np.ndarray) -> np.ndarray:
    s = np.sqrt(values)
    return -0.5 * np.multiply.outer(s, s) / np.add.outer(s, s)


def _entropy_curvature(p: np.ndarray) -> np.ndarray:
    # -a b log(a / b) / (a - b), of the smaller over the larger: each entry keeps its digits.
    least, most = np.minimum.outer(p, p), np.maximum.outer(p, p)
    gap = (most - least) / most
    with np.errstate(invalid="ignore", divide="ignore"):
        return least * np.where(gap > 0, np.log1p(-gap) / gap, -1.0)


ROOT = Summand(np.sqrt, lambda values: 0.5 * np.sqrt(values), _root_curvature)
ENTROPY = Summand(lambda p: -p * np.log(p), lambda p: -p * (1 + np.log(p)), _entropy_curvature)


def positive(eigenvalues: np.ndarray) -> np.ndarray:
    """Places of the eigenvalues above rounding, of ascending ``(d,)``."""
    least = np.finfo(np.float64).eps * len(eigenvalues) * max(float(eigenvalues[-1]), 0.0)
    return np.flatnonzero(eigenvalues > least)


def may_expand(features: int, left: int) -> bool:
    """Whether replicates of ``left`` samples are worth an expansion, and may be held by one."""
    return features > EXACT_FEATURES and left >= PER_FEATURE * features


def replicates(
    summand: Summand, eigenvalues: np.ndarray, change: Callable[[int], np.ndarray], count: int
) -> np.ndarray | None:
    """Sums ``(count,)`` over the spectra of A + E_b, or None where the expansion does not hold.

    Args:
        summand: the f.
        eigenvalues: those of A ``(r,)``, > 0.
        change: the b-th E_ij / sqrt(l_i l_j) ``(r, r)`` float32, a new array each time.
        count: number of blocks, at least 2.
    """
    whole, slope = summand.total(eigenvalues), summand.slope(eigenvalues)
    curvature = summand.curvature(eigenvalues).astype(np.float32).ravel()
    found = np.empty(count)
    for b in range(count):
        e = change(b)
        own = np.diagonal(e).astype(np.float64)
        if not np.abs(own).max() < SHARE:  # Not so of NaN either.
            return None
        np.multiply(e, e, out=e)
        found[b] = whole + float(slope @ own) + 0.5 * float(np.dot(e.ravel(), curvature))
    return found
