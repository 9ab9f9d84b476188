"""Which axis of an array of images is which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piflow_bench.errors import UserError

GREY, LAST, FIRST = "nhw", "nhwc", "nchw"
"""Axes of a stack of images."""
MEANT = "(n, height, width, 3) is meant"
CHANNELS = 4
"""A last axis of no more than this may be one of channels."""


def axes_of(shape: Sequence[int], dtype: np.dtype, what: str) -> str:
    """The axes of a stack of uint8 images: nhw, nhwc or nchw.

    Raises:
        UserError: for other types, and for shapes that are no stack or may be one in two ways.
    """
    if dtype.hasobject:
        raise UserError(f"{what}: an array of Python objects is a pickle, which is not read")
    if dtype != np.uint8:
        raise UserError(
            f"{what}: images must be uint8 (0..255), not {dtype}; convert them first, floats in "
            "[0, 1] by numpy.uint8(255 * x + 0.5)"
        )
    shown = tuple(shape)
    if 0 in shape[1:]:
        raise UserError(f"{what}: shape {shown}: images without pixels")
    if len(shape) == 3:
        if shape[2] <= CHANNELS or shape[0] in (3, 4):
            raise UserError(
                f"{what}: shape {shown} may be one image with channels or a stack of grey ones; "
                f"{MEANT}: array[None] for one image, array[..., None] for grey ones"
            )
        # Only square images of another number show which axis counts them.
        if shape[1] != shape[2] or shape[0] == shape[1]:
            raise UserError(
                f"{what}: shape {shown} may be a stack of grey images by its first axis or by its "
                f"last; {MEANT}: array[..., None] for the first, "
                "array.transpose(2, 0, 1)[..., None] for the last"
            )
        return GREY
    last, first = (len(shape) == 4 and shape[axis] in (1, 3) for axis in (3, 1))
    if last and first:
        raise UserError(
            f"{what}: shape {shown} may have its channels first or last; {MEANT}, with sides that "
            "cannot be taken for channels"
        )
    if last or first:
        return LAST if last else FIRST
    raise UserError(f"{what}: shape {shown} is no stack of images; {MEANT}")


def as_rgb(rows: np.ndarray, axes: str) -> np.ndarray:
    """``(n, h, w, 3)`` of a stack with these axes; grey is repeated."""
    if axes == GREY:
        rows = rows[..., None]
    if axes == FIRST:
        rows = rows.transpose(0, 2, 3, 1)
    if rows.shape[3] == 1:
        rows = rows.repeat(3, axis=3)
    return np.ascontiguousarray(rows)
