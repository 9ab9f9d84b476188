"""First and second moments that merge and come apart exactly.

A shard, a block and a whole sample are the same three facts, so sharded evaluation, growing sample
sizes and the delete-block jackknife all read the features once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

_ROWS = 16384
_GRAM_ROWS = 4096
"""Few, so that what is made of them stays out of main memory's way."""


@dataclass(frozen=True)
class Moments:
    """Count, mean ``(d,)`` and scatter ``(d, d)``: the centred sum of outer products, float64."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def from_features(cls, features: np.ndarray) -> Moments:
        """Moments of ``(n, d)`` features, n >= 1, accumulated in float64 whatever their dtype."""
        if features.ndim != 2 or len(features) == 0:
            raise ValueError(f"features must be (n, d) with n >= 1, not {features.shape}")
        return reduce(
            cls.merge, (_direct(features[i : i + _ROWS]) for i in range(0, len(features), _ROWS))
        )

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together (Chan, Golub & LeVeque 1983)."""
        n = self.n + other.n
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + (self.n * other.n / n) * np.outer(shift, shift)
        return Moments(n, self.mean + shift * (other.n / n), scatter)

    def without(self, other: Moments) -> Moments:
        """Moments after taking out ``other``, a part of this sample: the inverse of ``merge``."""
        n = self.n - other.n
        if n < 1:
            raise ValueError(f"cannot take {other.n} samples out of {self.n}")
        mean = self.mean + (self.mean - other.mean) * (other.n / n)
        shift = other.mean - mean
        scatter = self.scatter - other.scatter - (n * other.n / self.n) * np.outer(shift, shift)
        return Moments(n, mean, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance ``(d, d)`` (division by n - 1); needs n >= 2."""
        if self.n < 2:
            raise ValueError("a covariance needs at least 2 samples")
        return self.scatter / (self.n - 1)


def _direct(features: np.ndarray) -> Moments:
    n, d = features.shape
    mean = np.zeros(d)
    for part in _doubles(features):
        mean += np.ones(len(part)) @ part  # A product uses all cores, unlike a sum.
    mean /= n

    def centre(part: np.ndarray) -> None:
        part -= mean

    return Moments(n, mean, gram(features, centre))


def _doubles(x: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in float64, some at a time, in memory that is used again.

    Copies of all the rows would take twice the time: the system hands large ones out page by page.
    """
    held = np.empty((min(len(x), _GRAM_ROWS), x.shape[1]))
    for i in range(0, len(x), _GRAM_ROWS):
        part = held[: len(x) - i]
        np.copyto(part, x[i : i + _GRAM_ROWS])
        yield part


def gram(x: np.ndarray, change: Callable[[np.ndarray], None]) -> np.ndarray:
    """``z.T @ z`` ``(d, d)``, where ``change`` makes rows z of rows of x, in place and float64."""
    total, product = np.zeros((2, x.shape[1], x.shape[1]))
    for part in _doubles(x):
        change(part)
        total += np.matmul(part.T, part, out=product)
    return total


def split(features: np.ndarray, blocks: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of every block, one after the other: ``blocks`` ``(n,)`` holds ids 0..g-1.

    One block is copied at a time, so that all of them need no memory of their own.
    """
    for b in range(int(np.max(blocks)) + 1):
        yield features[blocks == b]


def block_moments(features: np.ndarray, blocks: np.ndarray) -> list[Moments]:
    """Moments of every block of ``(n, d)`` features; ``blocks`` ``(n,)`` holds ids 0..g-1."""
    return [Moments.from_features(part) for part in split(features, blocks)]


def merge_all(parts: Sequence[Moments]) -> Moments:
    """Moments of all parts together."""
    return reduce(Moments.merge, parts)
