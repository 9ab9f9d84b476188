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
from pathlib import Path, PurePosixPath

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.images import Images, printable
from piflow_bench.evaluation.pictures.pillow import Header, decode, header

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LOSSY = ("JPEG", "MPO", "WEBP")
"""Pillow's names of formats that lose something, whatever the files' suffixes."""
BEGINNINGS = {
    ".png": rb"\x89PNG\r\n", ".jpg": rb"\xff\xd8\xff", ".webp": rb"RIFF.{4}WEBP",
    ".bmp": rb"BM.{4}\0{4}",
}  # fmt: skip
"""How files of ``EXTENSIONS`` begin, as expressions over bytes."""
LISTED = 6
"""Suffixes of files left out that a warning names."""


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
    """How many files of each other suffix there are."""
    example: str
    """The first of those files, if any."""
    repeated: int
    """How many of the names lead to a file that another one leads to."""
    empty: tuple[str, ...] = ()
    """Subfolders without any image, the outermost ones."""


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
        elif path.suffix.lower() not in EXTENSIONS:
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
        Counter(PurePosixPath(name).suffix.lower() for name in others),
        min(others, key=natural, default=""),
        len(inodes) - len(set(inodes)),
        _outermost_empty(folders, names),
    )


def _refuse_nameless(path: Path, what: str) -> None:
    """UserError for an image whose name has no suffix, or a number in its place (img.0001)."""
    if any(letter.isalpha() for letter in path.suffix):
        return
    try:
        with path.open("rb") as handle:
            begin = handle.read(16)
    except OSError as error:
        raise UserError(f"{what}: {path}: cannot be read ({error.strerror})") from error
    kinds = (suffix for suffix, how in BEGINNINGS.items() if re.match(how, begin, re.DOTALL))
    kind = next(kinds, None)
    if kind:
        raise UserError(
            f"{what}: {path}: begins as an image but has no suffix, by which images are told from "
            f"other files; call it {path.name}{kind}"
        )


def _outermost_empty(folders: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Folders that hold no name, at any depth, and lie in one that does or at the top."""
    holding = {"."}
    for parent in {PurePosixPath(name).parent for name in names}:
        holding |= {str(each) for each in (parent, *parent.parents)}
    found = [f for f in folders if f not in holding and str(PurePosixPath(f).parent) in holding]
    return tuple(sorted(found, key=natural))


def classes_of(names: Sequence[str]) -> list[str | None]:
    """The subfolder of every image; None where it lies in none.

    A folder that holds all images is a wrapper and no class: images are classed by what differs.
    """
    return _below(names, 0)


def _below(names: Sequence[str], level: int) -> list[str | None]:
    """The subfolder of every image at a level below the folders that hold all of them."""
    parents = [name.split("/")[:-1] for name in names]
    place = len(os.path.commonprefix(parents)) + level
    return [each[place] if len(each) > place else None for each in parents]


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
    """The images of a folder, classed by its subfolders."""
    found = walk(folder, what)
    files = [folder / name for name in found.names]
    if not files:
        others = f"; {_counted(found)} not read" if found.left_out else ""
        if found.left_out.keys() & {".npz", ".npy"}:
            others += "; arrays are given as a file, not as their folder"
        raise UserError(f"{what}={folder}: no images in it ({', '.join(EXTENSIONS)}){others}")
    height, width, _ = decode(files[0], what).shape
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        # All are looked at before any work.
        headers = list(pool.map(lambda path: header(path, what), files))
    other = next((each for each in zip(files, headers, strict=True)
                  if (each[1].width, each[1].height) != (width, height)), None)  # fmt: skip
    if other is not None:
        raise UserError(
            f"{what}={folder}: images of several sizes: {files[0].name} is {width}x{height}, "
            f"{other[0].name} is {other[1].width}x{other[1].height}; resize them by one "
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

    classes = classes_of(found.names)
    labels = None if None in classes else np.array([printable(name) for name in classes if name])
    warnings = [f"{what}={folder}: {text}" for text in _warnings(found, headers, classes)]
    return Images(
        str(folder), len(files), height, width, rows, fingerprint, tuple(warnings), labels,
        found.names,
    )  # fmt: skip


def _warnings(
    found: Found, headers: Sequence[Header], classes: Sequence[str | None]
) -> Iterator[str]:
    total = len(found.names)
    lossy = sum(each.format in LOSSY for each in headers)
    if lossy:
        yield (f"{lossy} of {total} files are of a lossy format, which moves Fréchet distances")
    alpha = sum(each.alpha for each in headers)
    if alpha:
        yield f"{alpha} of {total} files have transparency, which is dropped and not blended"
    moving = sum(each.frames > 1 for each in headers)
    if moving:
        yield f"{moving} of {total} files hold several frames, of which the first is taken"
    if found.left_out:
        yield f"{_counted(found)} left out; read are {', '.join(EXTENSIONS)}"
    if found.empty:
        count = len(found.empty)
        hold = " holds" if count == 1 else "s hold"
        yield f"{count} subfolder{hold} no images, such as {found.empty[0]}"
    if found.repeated:
        yield f"{found.repeated} of {total} images are the same file as another one, by links"
    alike = total - len({name.rpartition(".")[0] for name in found.names})
    if alike:
        yield f"{alike} of {total} images are called like another one but for the suffix"
    outside = classes.count(None)
    if 0 < outside < total:
        yield (
            f"{outside} of {total} images lie beside the subfolders, so the images have no classes"
        )
    within = sorted({name for name in _below(found.names, 1) if name})
    if not outside and len(within) > 1:
        yield (
            f"classes are the outer subfolders, such as {classes[0]}, and not "
            f"the {len(within)} within them, such as {within[0]}"
        )


def _counted(found: Found) -> str:
    """``4 .txt, 1 .gif files are``, with an example."""
    counts = found.left_out
    often = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:LISTED]
    named = sorted(often)
    listed = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in named)
    more = counts.total() - sum(count for _, count in named)
    one = counts.total() == 1
    return (
        f"{listed}{f' and {more} other' if more else ''} file{'' if one else 's'} "
        f"({'' if one else 'such as '}{found.example}) {'is' if one else 'are'}"
    )
