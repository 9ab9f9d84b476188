"""A user's own pictures in folders and archives, one by one, and the split that they come with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.archives import list_archive
from piflow_bench.evaluation.pictures.files import Found, classes_of, name_warnings
from piflow_bench.evaluation.pictures.images import printable
from piflow_bench.evaluation.pictures.pillow import Header, decode, header

TRAIN = ("train", "training")
HELD_OUT = {"test": ("test", "testing", "t10k"), "val": ("val", "valid", "validation")}
"""Names of parts, by which a source says that it is split; the first kind there is held out."""


@dataclass(frozen=True)
class PictureSource:
    """Pictures where they lie, those of the training part first where there are parts.

    ``header`` and ``read`` take a picture's place; they may be called from several threads and
    raise UserError for what cannot be read.
    """

    names: tuple[str, ...]
    """For messages, and for files of labels."""
    header: Callable[[int], Header]
    read: Callable[[int], np.ndarray]
    """Pixels ``(h, w, 3)`` uint8; those of a grey picture are repeated."""
    classes: tuple[str, ...] | None = None
    """Name of every picture's class."""
    order: tuple[str, ...] | None = None
    """All classes, where the source states their order."""
    train: int | None = None
    """How many of the pictures are its own training part."""
    by_place: bool = False
    """Whether the pictures' order is the source's own, and not that of their names."""
    notes: tuple[str, ...] = ()
    left_out: dict[str, int] | None = None
    """How many other files there are of each suffix."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Division:
    """Pictures that their source has split: ``rows`` with the first ``train`` of its own part."""

    rows: list[int]
    train: int
    note: str


def is_part(word: str) -> bool:
    """Whether a word names a part of a split."""
    return word.lower() in {*TRAIN, *(name for names in HELD_OUT.values() for name in names)}


def divided(words: Sequence[str | None]) -> Division | None:
    """The split that a source comes with; None where it has no training and held-out part.

    Args:
        words: what may name every picture's part: a folder, or how a file's name begins.
    """
    kinds = [(word or "").lower() for word in words]
    train = [i for i, kind in enumerate(kinds) if kind in TRAIN]
    for names in HELD_OUT.values():
        held = [i for i, kind in enumerate(kinds) if kind in names]
        if train and held:
            break
    else:
        return None
    rows = [*train, *held]
    note = (
        f"split as the source is: {len(train)} in {words[train[0]]}, {len(held)} held out in "
        f"{words[held[0]]}"
    )
    others = sorted({word or "neither" for word in words} - {str(words[i]) for i in rows})
    if others:
        count = len(words) - len(rows)
        note += f"; {count} in {', '.join(map(printable, others))} are left out"
    return Division(rows, len(train), note)


def open_folder(folder: Path, found: Found, by_folder: bool) -> PictureSource:
    """The images of a folder, at any depth.

    Args:
        folder: where they lie.
        found: what is in it (see ``walk``); at least one image.
        by_folder: whether subfolders name classes.

    Raises:
        UserError: for images beside class folders.
    """
    files = [folder / name for name in found.names]
    where = [f"source: {file}" for file in files]
    return _classed(
        found,
        lambda i: header(files[i], where[i]),
        lambda i: decode(files[i], where[i]),
        by_folder,
        f"source={folder}",
    )


def open_packed(path: Path, by_folder: bool) -> PictureSource:
    """The images of a zip or tar file; see ``open_folder``."""

    def look(data: bytes, where: str) -> Header | UserError:
        try:
            return header(BytesIO(data), where)
        except UserError as error:  # All that cannot be read are told of together.
            return error

    found, packed = list_archive(path, "source", look)

    def seen(i: int) -> Header:
        if isinstance(header := packed[i].seen, UserError):
            raise header
        return header

    return _classed(found, seen, lambda i: packed[i].decode(), by_folder, f"source={path}")


def _classed(
    found: Found,
    look: Callable[[int], Header],
    read: Callable[[int], np.ndarray],
    by_folder: bool,
    where: str,
) -> PictureSource:
    """Images with the parts and the classes that their folders name."""
    outer = classes_of(found.names)
    division = divided(outer)
    rows = division.rows if division else list(range(len(found.names)))
    names = [found.names[i] for i in rows]
    # Below the part's folder, which is no class.
    depth = len(os.path.commonprefix([name.split("/")[:-1] for name in found.names])) + 1
    within = tuple("/".join(name.split("/")[depth:]) if division else name for name in names)
    classes = classes_of(within)
    if by_folder:
        _refuse_mixed(names, classes, where)
    train = division.train if division else len(rows)
    notes = [division.note] if division else []
    for part in (slice(0, train), slice(train, None)):
        if within[part]:
            beside = found if part.start == 0 else Found((), (), 0)
            notes += name_warnings(replace(beside, names=within[part]), classes[part])
    return PictureSource(
        tuple(names),
        lambda i: look(rows[i]),
        lambda i: read(rows[i]),
        tuple(printable(str(name)) for name in classes) if by_folder and classes[0] else None,
        train=train if division else None,
        notes=tuple(notes),
        left_out=dict(found.left_out),
    )


def _refuse_mixed(names: Sequence[str], classes: Sequence[str | None], where: str) -> None:
    loose = [name for name, label in zip(names, classes, strict=True) if label is None]
    if loose and len(loose) < len(names):
        raise UserError(
            f"{where}: {len(loose)} of {len(names)} images lie beside class folders, such as "
            f"{loose[0]}; move them into one, or set labels=FILE, or labels=none for pictures "
            "without classes"
        )
