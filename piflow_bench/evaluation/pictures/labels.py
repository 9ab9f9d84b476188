"""Classes in arrays: the ways in which the field writes them."""

from __future__ import annotations

import numpy as np


def as_classes(array: np.ndarray) -> np.ndarray | None:
    """Class of every row ``(n,)`` as strings; None for an array that states none.

    Args:
        array: names or whole numbers ``(n,)`` or ``(n, 1)``, or one-hot rows ``(n, C)`` of any
            numbers.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return array.argmax(axis=1).astype(str) if _is_one_hot(array) else None
    return array.astype(str) if array.ndim == 1 and array.dtype.kind in "iuU" else None


def _is_one_hot(array: np.ndarray) -> bool:
    ones = array == 1
    return bool(((array == 0) | ones).all() and (ones.sum(axis=1) == 1).all())
