"""The Fréchet distance between two samples' normal approximations, and its limit at infinite n."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np

from piflow_bench.evaluation.metrics import spectral
from piflow_bench.evaluation.moments import Moments, block_moments, merge_all

Change = tuple[np.ndarray, np.ndarray]
"""Indices of the rows that leave a sample, and of those that join it."""


class FrechetReference:
    """One side of a Frechet distance with its covariance factored once, for many calls."""

    def __init__(self, moments: Moments):
        self.moments = moments
        covariance = moments.covariance
        self._factor, self._triangular = _factor(covariance)
        self._trace = float(np.trace(covariance))

    def distance(self, moments: Moments) -> float:
        """Frechet distance to a normal distribution with these moments (see ``fd``)."""
        values = np.linalg.eigvalsh(self._inside(moments))
        return self._value(
            moments.mean, float(np.trace(moments.covariance)), spectral.ROOT.total(values)
        )

    def distances(self, features: np.ndarray, subsets: Sequence[np.ndarray]) -> list[float]:
        """Frechet distances to some of the rows ``(n, d)``, by their indices; for n <= d.

        F^T S F has no more non-zero eigenvalues than there are rows, and shares them with the
        centred n x n matrix of the rows' products.
        """
        x = features - self.moments.mean
        rows = x @ self._factor
        products, squares = rows @ rows.T, np.einsum("ij,ij->i", x, x)
        found = []
        for kept in subsets:
            n, shift = len(kept), x[kept].mean(axis=0)
            inner = products[np.ix_(kept, kept)]
            means = inner.mean(axis=0)
            inner += means.mean() - means - means[:, None]
            trace = (float(squares[kept].sum()) - n * float(shift @ shift)) / (n - 1)
            root = spectral.ROOT.total(np.linalg.eigvalsh(inner / (n - 1)))
            found.append(self._value(self.moments.mean + shift, trace, root))
        return found

    def expanded(
        self, features: np.ndarray, moments: Moments, changes: Sequence[Change]
    ) -> tuple[float, np.ndarray] | None:
        """Distance to a sample, and to the same sample changed, from one decomposition.

        Args:
            features: rows ``(n, d)`` that changes are taken from.
            moments: those of the sample.
            changes: each the rows that leave the sample and those that join it.

        Returns:
            The distance and ``(len(changes),)`` distances, or None where the expansion does not
            hold (see ``spectral``), and for copies of the reference.
        """
        values, vectors = np.linalg.eigh(self._inside(moments))
        use = spectral.positive(values)
        known = values[use]
        # In these coordinates the sample's covariance is the identity.
        axes = (self._factor @ vectors[:, use] / np.sqrt(known)).astype(np.float32)

        def change(b: int) -> np.ndarray:
            return _whitened_change(features, moments, changes[b], axes)

        roots = spectral.replicates(spectral.ROOT, known, change, len(changes))
        if roots is None:
            return None
        centres = [_centre_and_trace(features, moments, each) for each in changes]
        left = np.array([self._value(*c, root) for c, root in zip(centres, roots, strict=True)])
        trace = float(np.trace(moments.covariance))
        whole = self._value(moments.mean, trace, spectral.ROOT.total(values))
        # Less than half of what the sample's own noise adds: these are copies of the reference.
        # All derivatives of low order vanish there.
        noise = (len(left) - 1) * float(left.mean() - whole)
        return None if whole < noise / 2 else (whole, left)

    def _inside(self, moments: Moments) -> np.ndarray:
        """F^T S F with this side's F and the other's S; of a triangular F the lower triangle."""
        factor = self._factor
        if not self._triangular:
            return factor.T @ moments.covariance @ factor
        from scipy.linalg.lapack import dsygst  # Here: scipy takes longer to load than this module.

        # A quarter of the work of two products. LAPACK reads and writes columns first: to it our
        # lower triangle is an upper one.
        found, _ = dsygst(moments.covariance.T, factor.T, itype=2, lower=0, overwrite_a=1)
        return found.T

    def _value(self, mean: np.ndarray, trace: float, root: float) -> float:
        shift = mean - self.moments.mean
        return float(shift @ shift) + trace + self._trace - 2.0 * root


def _factor(covariance: np.ndarray) -> tuple[np.ndarray, bool]:
    """F ``(d, r)`` with F F^T = S, and whether it is lower triangular.

    It is, by Cholesky, where S is well within the positive definite; else pivots are taken.
    """
    eps = np.finfo(np.float64).eps * len(covariance)
    try:
        lower = np.linalg.cholesky(covariance)
        if np.diagonal(lower).min() ** 2 > eps * np.diagonal(covariance).max():
            return lower, True
    except np.linalg.LinAlgError:
        pass
    from scipy.linalg.lapack import dpstrf

    # Pivots end where no variance is left: directions without any would only cost time.
    tolerance = eps * float(np.diagonal(covariance).max(initial=0.0))
    factor, pivots, rank, _ = dpstrf(covariance, tol=tolerance, lower=1)
    found = np.zeros((len(covariance), rank))
    found[pivots - 1] = np.tril(factor)[:, :rank]
    return found, False


def fd(a: Moments, b: Moments) -> float:
    """Frechet distance |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2).

    Heusel et al. 2017. The root's trace is the sum of the roots of the eigenvalues of F^T S_a F
    with S_b = F F^T: symmetric, so real, and right for rank-deficient covariances (n <= d).
    """
    return FrechetReference(b).distance(a)


def _centre_and_trace(
    features: np.ndarray, moments: Moments, change: Change
) -> tuple[np.ndarray, float]:
    """Mean ``(d,)`` and trace of the covariance of the changed sample."""
    sums, squares, n = np.zeros_like(moments.mean), 0.0, moments.n
    for rows, sign in ((change[0], -1), (change[1], 1)):
        centred = features[rows] - moments.mean
        sums += sign * centred.sum(axis=0)
        squares += sign * float(np.einsum("ij,ij->", centred, centred))
        n += sign * len(rows)
    scatter = float(np.trace(moments.scatter)) + squares - float(sums @ sums) / n
    return moments.mean + sums / n, scatter / (n - 1)


def _whitened_change(
    features: np.ndarray, moments: Moments, change: Change, axes: np.ndarray
) -> np.ndarray:
    """The covariance's change ``(r, r)`` float32 in coordinates ``axes`` ``(d, r)`` that whiten."""

    def moved(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = (features[rows] - moments.mean).astype(np.float32) @ axes
        return z.T @ z, z.sum(axis=0)

    scatter, sums = moved(change[0])
    if len(change[1]):
        joined = moved(change[1])
        scatter, sums = scatter - joined[0], sums - joined[1]
    n = moments.n - len(change[0]) + len(change[1])
    scatter += np.outer(sums, sums / np.float32(n))
    scatter *= np.float32(-1 / (n - 1))
    scatter[np.diag_indices(len(sums))] += (moments.n - 1) / (n - 1) - 1
    return scatter


def fd_with_replicates(
    features: np.ndarray, blocks: np.ndarray, reference: FrechetReference
) -> tuple[float, Sequence[float] | np.ndarray]:
    """Distance of ``(n, d)``, and without each block of ids ``(n,)`` 0..g-1; none for one block."""
    n, d = features.shape
    count, none = int(blocks.max()) + 1, np.zeros(0, dtype=np.int64)
    if n <= d:
        kept = [np.flatnonzero(blocks != b) for b in range(count if count > 1 else 0)]
        whole, *left = reference.distances(features, [np.arange(n), *kept])
        return whole, left
    if count == 1:
        return reference.distance(Moments.from_features(features)), ()
    if spectral.may_expand(d, n - int(np.bincount(blocks).max())):
        changes = [(np.flatnonzero(blocks == b), none) for b in range(count)]
        found = reference.expanded(features, Moments.from_features(features), changes)
        if found is not None:
            return found
    parts = block_moments(features, blocks)
    moments = merge_all(parts)
    return reference.distance(moments), [reference.distance(moments.without(p)) for p in parts]


def _sizes(n: int, points: int) -> np.ndarray:
    """Sizes of nested subsets of n samples, from n/4 to n."""
    sizes = np.unique(np.linspace(max(2, n // 4), n, points).astype(int))
    if len(sizes) < 2:
        raise ValueError("an extrapolation needs at least 3 samples")
    return sizes


def fd_by_size(
    generated: np.ndarray,
    reference: FrechetReference,
    seed: int = 2020,
    points: int = 10,
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes ``(p,)`` and FD ``(p,)`` on nested random subsets from n/4 to n.

    ``order``: row indices to nest in that order instead of a permutation drawn from ``seed``.
    """
    if order is None:
        order = np.random.RandomState(seed).permutation(len(generated))
    sizes = _sizes(len(order), points)
    values = [reference.distance(moments) for moments in _nested(generated[order], sizes)]
    return sizes, np.asarray(values)


def _nested(features: np.ndarray, sizes: np.ndarray) -> Iterator[Moments]:
    """Moments of the first rows, for each of ascending sizes."""
    edges = np.concatenate([[0], sizes])
    parts = (Moments.from_features(features[a:b]) for a, b in pairwise(edges))
    return accumulate(parts, Moments.merge)


def at_infinity(sizes: np.ndarray, values: np.ndarray) -> float:
    """Intercept of a line through ``values`` over 1/N (Chong & Forsyth 2020)."""
    return float(np.polyfit(1.0 / sizes, values, 1)[1])


def fd_infinity(
    generated: np.ndarray,
    reference: FrechetReference,
    seed: int = 2020,
    points: int = 10,
    order: np.ndarray | None = None,
) -> float:
    """FD extrapolated over 1/N on nested random subsets (Chong & Forsyth 2020).

    Removes the bias that comes from the size of the generated sample, not the reference's.
    """
    return at_infinity(*fd_by_size(generated, reference, seed, points, order))


def fd_infinity_with_replicates(
    generated: np.ndarray,
    blocks: np.ndarray,
    reference: FrechetReference,
    seed: int = 2020,
    points: int = 10,
) -> tuple[float, Sequence[float] | np.ndarray]:
    """FD at infinity of ``(n, d)``, and without each block of ids ``(n,)`` 0..g-1.

    One order for all: a fresh permutation per replicate would pass for sampling error.
    """
    order = np.random.RandomState(seed).permutation(len(generated))
    count = int(blocks.max()) + 1
    kept = [order[blocks[order] != b] for b in range(count)] if count > 1 else []
    if kept:
        found = _expanded_at_infinity(generated[order], blocks[order], reference, points)
        if found is not None:
            return found
    left = [fd_infinity(generated, reference, order=rows, points=points) for rows in kept]
    return fd_infinity(generated, reference, order=order, points=points), left


def _expanded_at_infinity(
    x: np.ndarray, blocks: np.ndarray, reference: FrechetReference, points: int
) -> tuple[float, np.ndarray] | None:
    """The same of rows in their order by one decomposition a size, or None where none holds."""
    kept = [np.flatnonzero(blocks != b) for b in range(int(blocks.max()) + 1)]
    left = [_sizes(len(rows), points) for rows in kept]
    sizes = _sizes(len(x), points)
    least = min(int(each[0]) for each in left)
    if not spectral.may_expand(x.shape[1], least) or {len(each) for each in left} != {len(sizes)}:
        return None
    values, replicates = [], []
    for at, moments in enumerate(_nested(x, sizes)):
        rows = np.arange(moments.n)
        # Without a block the subset of this place is as large a part of fewer samples.
        subsets = [each[: size[at]] for each, size in zip(kept, left, strict=True)]
        changes = [(np.setdiff1d(rows, each), np.setdiff1d(each, rows)) for each in subsets]
        found = reference.expanded(x, moments, changes)
        if found is None:
            return None
        values.append(found[0])
        replicates.append(found[1])
    by_block = np.array(replicates).T
    ends = [at_infinity(size, each) for size, each in zip(left, by_block, strict=True)]
    return at_infinity(sizes, np.array(values)), np.array(ends)
