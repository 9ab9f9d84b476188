"""Agreement of two aligned sets, sample by sample: student and teacher from the same noise."""

from __future__ import annotations

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.distances import unit_rows


def squared_errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared error ``(n,)`` of images ``(n, h, w, c)`` uint8, pixels scaled to 0..1.

    0 for equal images, 1 for black beside white.

    Raises:
        UserError: for other types than uint8, and for sets of different shapes.
    """
    _check_aligned(a, b)
    for images in (a, b):
        if images.dtype != np.uint8:
            raise UserError(f"squared errors are of uint8 images (0..255), not {images.dtype}")
    # Image by image: in float64 a whole batch would be eight times as large.
    return np.array([_mean_square(x, y) for x, y in zip(a, b, strict=True)], np.float64)


def _mean_square(x: np.ndarray, y: np.ndarray) -> float:
    # uint8 would wrap around at 0; these squares are whole numbers, which float64 adds exactly.
    return float(np.mean(np.square(x.astype(np.float64) - y))) / 255**2


def psnr(squared_errors: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio ``(n,)`` in dB, 10 log10(1 / error), of errors ``(n,)`` in 0..1.

    0 dB for black beside white, infinite for equal images: any finite cap would be a number of
    ours. A mean over samples is therefore infinite as soon as one pair is equal; the median is not.
    """
    with np.errstate(divide="ignore"):
        return -10 * np.log10(squared_errors)


def cosines(features_a: np.ndarray, features_b: np.ndarray) -> np.ndarray:
    """Cosine ``(n,)`` of every row of ``(n, d)`` with the same row of the other, -1 to 1.

    Raises:
        UserError: for sets of different shapes.
        ValueError: for a row of zeros, which has no direction.
    """
    _check_aligned(features_a, features_b)
    return np.einsum("ij,ij->i", unit_rows(features_a), unit_rows(features_b))


def _check_aligned(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise UserError(f"aligned sets are needed, one a sample, not {a.shape} beside {b.shape}")
