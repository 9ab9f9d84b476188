"""Which of a set's members stand for all of them."""

from __future__ import annotations

import numpy as np

SEED = 2020
KEPT = "a fixed draw that keeps the shares of classes"
DRAWN = "a fixed draw"


def subset(count: int, n: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Ascending places ``(n,)`` of n of ``count`` members, drawn without replacement.

    The draw is fixed: sets of one size with the same ``labels`` ``(count,)`` give the same places.
    Every class gets its share of n, rounded up or down; without labels all are of one class.
    """
    random = np.random.RandomState(SEED)
    keys = random.random_sample(count)
    if n >= count:
        return np.arange(count)
    classes = np.zeros(count, int)
    if labels is not None:
        classes = np.unique(labels, return_inverse=True)[1].ravel()
    sizes = np.bincount(classes)
    shares = n * sizes / count
    quotas = np.floor(shares).astype(int)
    # The largest remainders get what is left; drawn among equal ones, not the first classes.
    order = np.lexsort((random.random_sample(len(sizes)), -np.round(shares - quotas, 9)))
    quotas[order[: n - quotas.sum()]] += 1
    ranked = np.lexsort((keys, classes))
    rank = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(ranked[rank < np.repeat(quotas, sizes)])


def described(count: int, n: int, labels: np.ndarray | None, first: int | None = None) -> str:
    """What ``subset`` takes of ``count``, in words; nothing where it takes all.

    ``first``: how many of them it is given, from the first on; None for all.
    """
    first = count if first is None else first
    if n >= count:
        return ""
    whole = f"{count}" if first == count else f"the first {first} of {count}"
    return whole if n == first else f"{n} of {whole}, {DRAWN if labels is None else KEPT}"
