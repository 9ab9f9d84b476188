"""A user's own pictures in npz, npy and idx files: arrays, whose order is their own."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.axes import GREY, as_rgb, axes_of
from piflow_bench.evaluation.pictures.images import printable
from piflow_bench.evaluation.pictures.labels import as_classes
from piflow_bench.evaluation.pictures.npz import (
    DAMAGED,
    check_bytes,
    mapped,
    npz_members,
    reason,
)
from piflow_bench.evaluation.pictures.pillow import Header
from piflow_bench.preparation.picture_files import PictureSource, divided

KEYS = (("arr_0", "arr_1"), ("images", "labels"), ("x", "y"))
"""Under which names an npz file holds images and their labels."""
PARTED = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X_{}", "y_{}"))
"""The same where it holds several parts."""
PARTS = ("train", "test", "val")
IDX = re.compile(r"(.*?)(train|t10k|test)?([-_.]?)images([-.])idx3-ubyte(\.gz)?", re.IGNORECASE)
"""How a file of images is called, as MNIST's and those made like it."""


def open_npz(path: Path, classed: bool) -> PictureSource:
    """The images of an npz file, with its labels: names, whole numbers, or one-hot rows.

    Raises:
        UserError: for damaged files, for other arrays than uint8 images, and for labels of another
            count.
    """
    where = f"source={path}"
    members = npz_members(path, where)
    pairs = [(part, image.format(part), label.format(part)) for image, label in PARTED
             for part in PARTS if image.format(part) in members]  # fmt: skip
    pairs = [("", *pair) for pair in KEYS if pair[0] in members][:1] or pairs
    if not pairs:
        held = ", ".join(sorted(map(printable, members))) or "nothing"
        raise UserError(
            f"{where}: holds {held}; images are written by numpy.savez(FILE, arr_0=images, "
            "arr_1=labels)"
        )
    stacks, labels = [], []
    for _, images, classes in pairs:
        member = members[images]
        check_bytes(member.bytes, member.shape, member.dtype, f"{where}: {images}")
        try:
            stacks.append(mapped(member))
            known = classed and classes in members
            labels.append(_npz_labels(path, classes) if known else None)
        except DAMAGED as error:
            raise UserError(f"{where}: {reason(error)}") from error
        if known and labels[-1] is None:
            raise UserError(
                f"{where}: {classes} holds no classes: names, whole numbers or one-hot rows are "
                "read; save them so, or set labels=FILE or labels=none"
            )
    taken = {name for pair in pairs for name in pair}
    others = sorted(printable(name) for name in members.keys() - taken)
    notes = [f"arrays left out: {', '.join(others)}"] if others else []
    return _stacked(stacks, labels, [part for part, *_ in pairs], where, notes)


def _npz_labels(path: Path, key: str) -> np.ndarray | None:
    with np.load(path, allow_pickle=False) as arrays:
        return as_classes(arrays[key])


def open_npy(path: Path, classed: bool) -> PictureSource:
    """The images of an npy file, which is mapped and holds no labels."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"source={path}: {reason(error)}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"source={path}: an npz file by its content; call it {path.stem}.npz")
    return _stacked([array], [None], [""], f"source={path}")


# ------------------------------------------------------------------ idx


def read_idx(path: Path, what: str) -> np.ndarray:
    """The uint8 array of an idx file (MNIST's format), also of a gzipped one.

    The format: two zeros, 8 for uint8, the number of axes, their lengths as big-endian int32, and
    the numbers.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{what}: {path}: cannot be read whole ({error})") from error
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    if not axes or len(data) < 4 + 4 * axes:
        raise UserError(f"{what}: {path}: no idx file of unsigned bytes; copy it anew")
    shape = tuple(int(side) for side in np.frombuffer(data, ">i4", axes, 4))
    check_bytes(len(data) - 4 - 4 * axes, shape, np.dtype(np.uint8), f"{what}: {path}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def is_idx(name: str) -> bool:
    """Whether a file is one of images in MNIST's format, by its name."""
    return IDX.fullmatch(name) is not None


def open_idx(path: Path, classed: bool) -> PictureSource:
    """The images of an idx file, or of all those of a folder, with the labels beside them.

    Raises:
        UserError: also for a folder of several sets.
    """
    where = f"source={path}"
    files = sorted(f for f in path.iterdir() if is_idx(f.name)) if path.is_dir() else [path]
    # The unpacked file is the same.
    files = [f for f in files if f.suffix != ".gz" or f.with_suffix("") not in files]
    parts = []
    for file in files:
        match = IDX.fullmatch(file.name)
        assert match is not None
        parts.append((match[2] or "").lower())
    if len(set(parts)) < len(parts):
        raise UserError(
            f"{where}: holds several sets, such as {files[0].name} and {files[1].name}; give a "
            "folder to each, or one of the files"
        )
    stacks, labels = [], []
    for file in files:
        images = read_idx(file, "source")
        beside = idx_labels(file) if classed else None
        if images.ndim != 3:
            raise UserError(f"source: {file}: {images.ndim} axes are no stack of grey images")
        stacks.append(images[..., None])
        labels.append(None if beside is None else as_classes(read_idx(beside, "source")))
    return _stacked(stacks, labels, parts, where)


def idx_labels(images: Path) -> Path | None:
    """The file of labels beside one of images, packed or not."""
    match = IDX.fullmatch(images.name)
    assert match is not None
    stem = f"{match[1]}{match[2] or ''}{match[3]}labels{match[4]}idx1-ubyte"
    beside = (images.with_name(f"{stem}{packed}") for packed in ("", ".gz"))
    return next((file for file in beside if file.is_file()), None)


# ------------------------------------------------------------------ stacks


def _stacked(
    stacks: Sequence[np.ndarray],
    labels: Sequence[np.ndarray | None],
    parts: Sequence[str],
    where: str,
    notes: Sequence[str] = (),
) -> PictureSource:
    """The pictures of one array, or of one for every part."""
    axes = [axes_of(stack.shape, stack.dtype, where) for stack in stacks]
    counts = [len(stack) for stack in stacks]
    known = [found for found in labels if found is not None]
    if len(known) not in (0, len(stacks)):
        raise UserError(f"{where}: labels for one part alone; add them, or set labels=none")
    for found, count in zip(known, counts, strict=False):
        if len(found) != count:
            raise UserError(
                f"{where}: {len(found)} labels for {count} images; one an image is needed"
            )
    # The part and place of every picture.
    places = [(k, i) for k, count in enumerate(counts) for i in range(count)]
    division = divided([parts[k] for k, _ in places])
    if division:
        places = [places[row] for row in division.rows]
    headers = [_header(stack, axis) for stack, axis in zip(stacks, axes, strict=True)]

    def read(i: int) -> np.ndarray:
        k, row = places[i]
        return as_rgb(np.asarray(stacks[k][row : row + 1]), axes[k])[0]

    return PictureSource(
        tuple(f"{parts[k] or 'image'} {row}" for k, row in places),
        lambda i: headers[places[i][0]],
        read,
        tuple(printable(str(known[k][row])) for k, row in places) if known else None,
        train=division.train if division else None,
        by_place=True,
        notes=(*([division.note] if division else []), *notes),
    )


def _header(stack: np.ndarray, axes: str) -> Header:
    height, width = (stack.shape[axes.index(side)] for side in "hw")
    grey = axes == GREY or stack.shape[axes.index("c")] == 1
    return Header(width, height, "array", grey=grey)
