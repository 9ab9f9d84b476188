"""Images in arrays, tensors and datasets, and the rule that makes floats uint8."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.axes import CHANNELS, as_rgb, axes_of
from piflow_bench.evaluation.pictures.batches import gathered, given_once
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.npz import DAMAGED, check_bytes, reason
from piflow_bench.evaluation.pictures.pillow import rgb
from piflow_bench.evaluation.pictures.uint8 import of_unit
from piflow_bench.files.digests import file_digest


def _images(
    array: np.ndarray, path: str, what: str, fingerprint: Callable[[], str], axes: str | None = None
) -> Images:
    axes = axes or axes_of(array.shape, array.dtype, what)
    if not len(array):
        raise UserError(f"{what}: no images in it")
    height, width = (array.shape[axes.index(side)] for side in "hw")

    def rows(places: np.ndarray) -> np.ndarray:
        return as_rgb(np.asarray(array[places]), axes)

    return Images(path, len(array), height, width, rows, fingerprint)


def open_npy(path: Path, what: str) -> Images:
    """The images of an npy file, which is read in pieces."""
    named = f"{what}={path}"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"{named}: {reason(error)}") from error
    if not isinstance(array, np.memmap):
        raise UserError(f"{named}: an npz file by its content; call it {path.stem}.npz")
    check_bytes(path.stat().st_size - array.offset, array.shape, array.dtype, named)
    return _images(array, str(path), named, lambda: file_digest(path))


def in_memory(source: Any, what: str) -> Images:
    """Images of an array, a tensor, a dataset, or of what gives batches."""
    if hasattr(source, "detach") or isinstance(source, np.ndarray):
        return _of_array(np.ascontiguousarray(_uint8(source, what)), what)
    if isinstance(source, Mapping):
        raise UserError(f"{what}: a dictionary, where one set is needed; {{name: set}} is samples=")
    if given_once(source):
        array, labels = gathered(source, what, _uint8)
        return replace(_of_array(array, what), labels=labels)
    return _dataset(source, what)


def _of_array(array: np.ndarray, what: str) -> Images:
    def fingerprint() -> str:
        # Images of other sides may have the same bytes.
        whole = hashlib.sha256(array.data)
        whole.update(_shape(array.shape[1:]))
        return whole.hexdigest()

    return _images(array, "memory", what, cache(fingerprint))


def _shape(sides: Sequence[int]) -> bytes:
    return "x".join(map(str, sides)).encode()


def _uint8(found: Any, what: str) -> np.ndarray:
    """The array of an array or a tensor on any device; uint8 where it is of floats."""
    if hasattr(found, "detach"):
        found = found.detach().cpu()
        # numpy has no bfloat16.
        found = (found.float() if found.is_floating_point() else found).numpy()
    array = np.asarray(found)
    return of_unit(array, what) if array.dtype.kind == "f" and array.size else array


def _dataset(source: Any, what: str) -> Images:
    """Items of a dataset, one by one: it may be larger than the memory."""
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise UserError(
            f"{what}: {type(source).__name__} is no path, array, tensor, dataset or "
            "iterable of batches"
        )
    if not len(source):
        raise UserError(f"{what}: no images in it")
    from PIL.Image import Image

    def item(index: int) -> np.ndarray:
        found = source[int(index)]
        found = found[0] if isinstance(found, tuple | list) else found
        where = f"{what}: image {index}"
        if isinstance(found, Image):
            return rgb(found, where)
        image = _uint8(found, where)
        if image.ndim == 2 and image.shape[1] > CHANNELS:  # Grey; a few columns may be channels.
            image = image[..., None]
        # One image is a stack of one; a third axis of an image without a fourth is its channels.
        return as_rgb(image[None], axes_of((1, *image.shape), image.dtype, where))[0]

    height, width, _ = item(0).shape

    def rows(places: np.ndarray) -> np.ndarray:
        found = [item(index) for index in places]
        for row in found:
            if row.shape != (height, width, 3):
                raise UserError(
                    f"{what}: images of several sizes: {width}x{height} and "
                    f"{row.shape[1]}x{row.shape[0]}"
                )
        return np.stack(found)

    def fingerprint() -> str:
        whole = hashlib.sha256()
        for index in range(len(source)):
            whole.update(item(index).tobytes())
        whole.update(_shape((height, width, 3)))
        return whole.hexdigest()

    return Images("memory", len(source), height, width, rows, cache(fingerprint))
