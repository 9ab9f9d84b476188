"""Folders of image files: every entry is accounted for, in the order people count in."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.files import (
    Found,
    images_of,
    is_image,
    is_nameless,
    natural,
    outermost_empty,
    refuse_empty,
    refuse_nameless,
)
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.pillow import decode, header
from piflow_bench.evaluation.pictures.shards import open_shards
from piflow_bench.files.digests import file_digest

UNREAD = {".gif", ".tif", ".tiff", ".avif", ".heic", ".ppm", ".pgm", ".tga", ".exr"}
"""Suffixes of images that are not read."""


def walk(folder: Path, what: str) -> Found:
    """The images of a folder and its subfolders; links are followed, hidden entries left out.

    Raises:
        UserError: for links to nothing or to a folder above them, for folders that cannot be
            listed, for images that are no files, and for images without a suffix.
    """
    names, others, folders, inodes = [], [], [], []
    resolved = folder.resolve()
    above = frozenset(_identity(each.stat()) for each in (resolved, *resolved.parents))
    for path, found in _entries(folder, what, above):
        name = path.relative_to(folder).as_posix()
        if stat.S_ISDIR(found.st_mode):
            folders.append(name)
        elif not is_image(name):
            if stat.S_ISREG(found.st_mode):
                _refuse_nameless(path, what)
            others.append(name)
        elif not stat.S_ISREG(found.st_mode):
            raise UserError(f"{what}: {path}: no file")
        else:
            names.append(name)
            inodes.append(_identity(found))
    return Found(
        tuple(sorted(names, key=natural)),
        tuple(sorted(others, key=natural)),
        len(inodes) - len(set(inodes)),
        outermost_empty(folders, names),
    )


def _refuse_nameless(path: Path, what: str) -> None:
    if not is_nameless(path.name):
        return
    try:
        with path.open("rb") as handle:
            begin = handle.read(16)
    except OSError as error:
        raise UserError(f"{what}: {path}: cannot be read ({error.strerror})") from error
    refuse_nameless(begin, f"{what}: {path}")


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _entries(
    folder: Path, what: str, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[Path, os.stat_result]]:
    """Entries at any depth; ``above`` identifies the folders that hold this one."""
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
        if stat.S_ISDIR(found.st_mode) and _identity(found) in above:
            raise UserError(f"{what}: {path}: a link to a folder that holds it; remove it")
        yield path, found
        if stat.S_ISDIR(found.st_mode):
            yield from _entries(path, what, above | {_identity(found)})


def open_folder(folder: Path, what: str, workers: int) -> Images:
    """The images of a folder, classed by its subfolders, or of npz files where it has no others."""
    found, where = walk(folder, what), f"{what}={folder}"
    kinds = found.left_out.keys()
    # Beside images of other types nobody knows which of the two are meant.
    if not found.names and ".npz" in kinds and not kinds & UNREAD:
        return open_shards(folder, found.others, what)
    refuse_empty(found, where)
    files = [folder / name for name in found.names]
    named = [f"{what}: {path}" for path in files]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        # All are looked at before any work.
        headers = list(pool.map(header, files, named))

    def fingerprint() -> str:
        whole = hashlib.sha256()
        for path in files:
            whole.update(bytes.fromhex(file_digest(path)))
        return whole.hexdigest()

    return images_of(
        found, where, headers, lambda i: decode(files[i], named[i]), fingerprint, workers
    )
