"""Folders of image files: every entry is accounted for, in the order people count in."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.pillow import decode, size

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LOSSY = (".jpg", ".jpeg", ".webp")
OTHERS = (
    ".apng", ".avif", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".jfif", ".jp2",
    ".jpe", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
    ".npy", ".npz", ".parquet", ".pt", ".pth", ".tar", ".tgz", ".zip",
)  # fmt: skip
"""Files that may hold images as well, and are not read."""


def natural(name: str) -> tuple:
    """A key that sorts paths as people count: 2.png before 10.png, folder by folder."""
    parts = name.split("/")
    return tuple(
        (tuple(int(p) if i % 2 else p for i, p in enumerate(re.split("([0-9]+)", part))), part)
        for part in parts
    )


def two_orders(names: Sequence[str]) -> tuple[str, str] | None:
    """The first names at one place by number and by letters, where these orders differ."""
    by_number, by_letter = sorted(names, key=natural), sorted(names)
    return next(((a, b) for a, b in zip(by_number, by_letter, strict=True) if a != b), None)


@dataclass(frozen=True)
class Found:
    """What a folder holds, at any depth."""

    names: tuple[str, ...]
    """Paths of the images below the folder, in natural order."""
    left_out: Counter[str]
    """How many files of each suffix of ``OTHERS`` there are."""
    repeated: int
    """How many of the names lead to a file that another one leads to."""


def walk(folder: Path, what: str) -> Found:
    """The images of a folder and its subfolders; links are followed, hidden entries left out.

    Raises:
        UserError: for links to nothing or to a folder above them, for folders that cannot be
            listed, and for images that are no files.
    """
    names, left_out, inodes = [], Counter[str](), []
    resolved = folder.resolve()
    above = frozenset(_identity(each.stat()) for each in (resolved, *resolved.parents))
    for path, found in _files(folder, what, above):
        suffix = path.suffix.lower()
        if suffix in OTHERS:
            left_out[suffix] += 1
        if suffix not in EXTENSIONS:
            continue
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{what}: {path}: no file")
        names.append(path.relative_to(folder).as_posix())
        inodes.append(_identity(found))
    return Found(tuple(sorted(names, key=natural)), left_out, len(inodes) - len(set(inodes)))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _files(
    folder: Path, what: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[Path, os.stat_result]]:
    """Entries that are no folders; ``above`` identifies the folders that hold this one."""
    try:
        with os.scandir(folder) as listed:
            entries = [entry for entry in listed if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{what}: {folder}: cannot be listed ({error.strerror})") from error
    for entry in entries:
        path = Path(entry.path)
        try:
            found = entry.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP) or not entry.is_symlink():
                raise UserError(f"{what}: {path}: cannot be read ({error.strerror})") from error
            raise UserError(
                f"{what}: {path}: a link to {os.readlink(path)}, where nothing is; mend or remove "
                "it"
            ) from error
        if not stat.S_ISDIR(found.st_mode):
            yield path, found
            continue
        identity = _identity(found)
        if identity in above:
            raise UserError(f"{what}: {path}: a link to a folder that holds it; remove it")
        yield from _files(path, what, above | {identity})


def open_folder(folder: Path, what: str, workers: int) -> Images:
    """The images of a folder, classed by its subfolders."""
    found = walk(folder, what)
    files = [folder / name for name in found.names]
    if not files:
        others = f"; {_counted(found.left_out)} not read" if found.left_out else ""
        raise UserError(f"{what}={folder}: no images in it ({', '.join(EXTENSIONS)}){others}")
    height, width, _ = decode(files[0], what).shape
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        # All are looked at before any work.
        sizes = list(pool.map(lambda path: size(path, what), files))
    other = next((i for i, each in enumerate(sizes) if each != (width, height)), None)
    if other is not None:
        raise UserError(
            f"{what}={folder}: images of several sizes: {files[0].name} is {width}x{height}, "
            f"{files[other].name} is {sizes[other][0]}x{sizes[other][1]}; resize them by one "
            "rule first"
        )

    def rows(places: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            return np.stack(list(pool.map(lambda i: decode(files[i], what), places)))

    def fingerprint() -> str:
        whole = hashlib.sha256()
        for path in files:
            with path.open("rb") as handle:
                whole.update(hashlib.file_digest(handle, "sha256").digest())
        return whole.hexdigest()

    classes = [name.partition("/")[0] if "/" in name else None for name in found.names]
    labels = None if None in classes else np.array(classes)
    warnings = [f"{what}={folder}: {text}" for text in _warnings(found, classes)]
    return Images(
        str(folder), len(files), height, width, rows, fingerprint, tuple(warnings), labels,
        found.names,
    )  # fmt: skip


def _warnings(found: Found, classes: Sequence[str | None]) -> Iterator[str]:
    total = len(found.names)
    lossy = sum(name.lower().endswith(LOSSY) for name in found.names)
    if lossy:
        yield (f"{lossy} of {total} files are of a lossy format, which moves Fréchet distances")
    if found.left_out:
        yield f"{_counted(found.left_out)} left out; read are {', '.join(EXTENSIONS)}"
    if found.repeated:
        yield f"{found.repeated} of {total} images are the same file as another one, by links"
    outside = classes.count(None)
    if 0 < outside < total:
        yield (
            f"{outside} of {total} images lie beside the subfolders, so the images have no classes"
        )


def _counted(suffixes: Counter[str]) -> str:
    one = sum(suffixes.values()) == 1
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
    return f"{listed} file{' is' if one else 's are'}"
