"""Images that come in batches, once: generators, iterables, DataLoaders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.axes import as_rgb, axes_of
from piflow_bench.evaluation.pictures.labels import as_classes
from piflow_bench.evaluation.pictures.pillow import rgb


def given_once(source: Any) -> bool:
    """Whether images can only be had one after the other: a generator, a DataLoader."""
    return hasattr(source, "__iter__") and not hasattr(source, "__getitem__")


def gathered(
    source: Iterable[Any], what: str, as_array: Callable[[Any, str], np.ndarray]
) -> tuple[np.ndarray, np.ndarray | None]:
    """All images ``(n, h, w, 3)`` uint8 of batches, and their classes ``(n,)`` where these come.

    They lie in a file without a name: there may be more than the memory holds.

    Args:
        source: gives batches ``(b, h, w, 3)`` or ``(b, 3, h, w)``, single images with their
            channels, or Pillow's; a tuple or list of two is such images with their labels, as
            DataLoaders give it.
        what: the setting's name, for messages.
        as_array: uint8 of an array or a tensor (see ``arrays``).

    Raises:
        UserError: naming the batch.
    """
    labels: list[np.ndarray] = []
    count, shape = 0, None
    with tempfile.TemporaryFile() as file:
        for number, batch in enumerate(source):
            where = f"{what}: batch {number}"
            images, classes = _parts(batch)
            rows = _stack(images, where, as_array)
            if shape not in (None, rows.shape[1:]):
                raise UserError(
                    f"{where}: images of several sizes: {shape[1]}x{shape[0]} and "
                    f"{rows.shape[2]}x{rows.shape[1]}"
                )
            if (classes is None) != (not labels) and count:
                raise UserError(f"{where}: labels come with some batches and not with others")
            if classes is not None:
                labels.append(_classes(classes, len(rows), where))
            file.write(rows.tobytes())
            count, shape = count + len(rows), rows.shape[1:]
        if shape is None:
            raise UserError(f"{what}: no images in it; what gives its images once is used up then")
        file.flush()
        whole = np.memmap(file, np.uint8, "r", shape=(count, *shape))
    return whole, np.concatenate(labels) if labels else None


def _parts(batch: Any) -> tuple[Any, Any]:
    """Images and labels of a batch, or images alone."""
    if not isinstance(batch, tuple | list) or len(batch) < 2 or _may_be_images(batch[1]):
        return batch, None
    return batch[0], batch[1]


def _may_be_images(found: Any) -> bool:
    """Whether what stands second is an image as the first, and no labels."""
    if isinstance(found, tuple | list):
        return bool(found) and _may_be_images(found[0])
    return hasattr(found, "convert") or getattr(found, "ndim", 0) >= 3


def _stack(images: Any, where: str, as_array: Callable[[Any, str], np.ndarray]) -> np.ndarray:
    if hasattr(images, "convert"):  # Pillow's.
        return rgb(images, where)[None]
    if isinstance(images, tuple | list):
        if not images:
            raise UserError(f"{where}: no images in it")
        stacks = [_stack(image, where, as_array) for image in images]
        if len({stack.shape[1:] for stack in stacks}) > 1:
            raise UserError(f"{where}: images of several sizes")
        return np.concatenate(stacks)
    if not hasattr(images, "ndim"):
        raise UserError(f"{where}: {type(images).__name__} is no array or tensor of images")
    array = as_array(images, where)
    if not len(array):
        raise UserError(f"{where}: no images in it")
    if array.ndim == 3 and {array.shape[0], array.shape[2]} & {1, 3}:
        array = array[None]
    return as_rgb(array, axes_of(array.shape, array.dtype, where))


def _classes(given: Any, count: int, where: str) -> np.ndarray:
    array = given.detach().cpu().numpy() if hasattr(given, "detach") else np.asarray(given)
    found = as_classes(np.atleast_1d(array))
    if found is None or len(found) != count:
        raise UserError(f"{where}: labels {array.dtype} {array.shape} for {count} images")
    return found
