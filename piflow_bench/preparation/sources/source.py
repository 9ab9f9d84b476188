"""Encoded images with their classes, in one order: by class, and within a class by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class ReadError(Exception):
    """The source itself cannot be read, which says nothing about the image in it."""


@dataclass(frozen=True)
class ImageSource:
    """Encoded images with their classes; ``read(i)`` gives the bytes of the i-th.

    It can be pickled, so that other processes need not look for the images again. ``read`` may be
    called from several threads and raises ``ReadError`` where the source fails.
    """

    names: list[str]
    """Of the images, for messages: class/name."""
    labels: list[int]
    classes: list[str] | None
    """Names of the classes, in the order of their labels; None where the source has none."""
    read: Callable[[int], bytes]
    description: str = ""
    """What it is and where it lies, in words."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.names)

    def digest(self) -> str:
        """sha256 of the images' names and classes: what a half-finished folder belongs to."""
        whole = hashlib.sha256()
        for name, label in zip(self.names, self.labels, strict=True):
            whole.update(f"{name}\0{label}\n".encode())
        return whole.hexdigest()


@dataclass(frozen=True)
class Spans:
    """Parts of one file, by offset and size ``(n, 2)``."""

    path: Path
    spans: np.ndarray

    def __call__(self, i: int) -> bytes:
        """The i-th part."""
        start, size = (int(number) for number in self.spans[i])
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise ReadError(f"{self.path}: {error.strerror}") from error
        if len(data) < size:
            raise ReadError(f"{self.path}: ends early; copy it anew")
        return data


def is_image(name: str) -> bool:
    """Whether a file's name is an image's; hidden files are other programs' leavings."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def ordered(
    found: Iterable[tuple[str, str, Any]], folders: set[str]
) -> tuple[list[str], list[int], list[str], list[Any]]:
    """(class, name, key) rows as names, labels, classes and keys, by class and name."""
    rows = sorted(found, key=lambda row: (row[0], row[1]))
    classes = sorted(folders | {row[0] for row in rows})
    place = {name: i for i, name in enumerate(classes)}
    return (
        [f"{c}/{n}" for c, n, _ in rows],
        [place[c] for c, _, _ in rows],
        classes,
        [key for *_, key in rows],
    )
