"""Sets of image files, wherever they lie: their order, their classes, and what is told of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.images import Images, printable
from piflow_bench.evaluation.pictures.pillow import Header

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
    """What a folder or an archive holds, at any depth."""

    names: tuple[str, ...]
    """Paths of the images below it, in natural order."""
    others: tuple[str, ...]
    """Those of all other files."""
    repeated: int
    """How many of the names lead to a file that another one leads to."""
    empty: tuple[str, ...] = ()
    """Subfolders without any image, the outermost ones."""

    @property
    def left_out(self) -> Counter[str]:
        """How many other files there are of each suffix."""
        return Counter(PurePosixPath(name).suffix.lower() for name in self.others)


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix."""
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def is_nameless(name: str) -> bool:
    """Whether a file has no suffix, or a number in its place (img.0001)."""
    return not any(letter.isalpha() for letter in PurePosixPath(name).suffix)


def refuse_nameless(begin: bytes, where: str) -> None:
    """UserError for a file without a suffix that begins, by its first 16 bytes, as an image."""
    kinds = (suffix for suffix, how in BEGINNINGS.items() if re.match(how, begin, re.DOTALL))
    kind = next(kinds, None)
    if kind:
        raise UserError(
            f"{where}: begins as an image but has no suffix, by which images are told from "
            f"other files; call it {PurePosixPath(where).name}{kind}"
        )


def outermost_empty(folders: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
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


def images_of(
    found: Found,
    where: str,
    headers: Sequence[Header],
    decode: Callable[[int], np.ndarray],
    fingerprint: Callable[[], str],
    workers: int,
) -> Images:
    """The images of a folder or an archive, classed by its subfolders.

    Args:
        found: their names, and what lies beside them; at least one image.
        where: the setting and the path, as ``samples=x.zip``, for messages.
        headers: of every image.
        decode: gives the i-th image ``(h, w, 3)`` uint8; called from several threads.
        fingerprint: the sha256 of their sha256s, in order: the same for a folder and its archive.
        workers: threads that decode.

    Raises:
        UserError: for images of several sizes.
    """
    height, width, _ = decode(0).shape
    other = next((each for each in zip(found.names, headers, strict=True)
                  if (each[1].width, each[1].height) != (width, height)), None)  # fmt: skip
    if other is not None:
        first, name = (PurePosixPath(name).name for name in (found.names[0], other[0]))
        raise UserError(
            f"{where}: images of several sizes: {first} is {width}x{height}, "
            f"{name} is {other[1].width}x{other[1].height}; resize them by one "
            "rule first"
        )

    pool = ThreadPoolExecutor(max(workers, 1))  # Its threads begin with the first batch.

    def rows(places: np.ndarray) -> np.ndarray:
        return np.stack(list(pool.map(decode, places)))

    classes = classes_of(found.names)
    labels = None if None in classes else np.array([printable(name) for name in classes if name])
    texts = (*header_warnings(headers), *name_warnings(found, classes))
    warnings = [f"{where}: {text}" for text in texts]
    return Images(
        where.partition("=")[2], len(found.names), height, width, rows, cache(fingerprint),
        tuple(warnings), labels, found.names,
    )  # fmt: skip


def refuse_empty(found: Found, where: str) -> None:
    """UserError where there is no image."""
    if not found.names:
        others = f"; {_counted(found)} not read" if found.others else ""
        if found.left_out.keys() & {".npz", ".npy"}:
            others += "; arrays are given as a file, not as their folder"
        raise UserError(f"{where}: no images in it ({', '.join(EXTENSIONS)}){others}")


def header_warnings(headers: Sequence[Header]) -> Iterator[str]:
    """What the files of a set lose, or what is dropped of them."""
    total = len(headers)
    lossy = sum(each.format in LOSSY for each in headers)
    if lossy:
        yield (f"{lossy} of {total} files are of a lossy format, which moves Fréchet distances")
    alpha = sum(each.alpha for each in headers)
    if alpha:
        yield f"{alpha} of {total} files have transparency, which is dropped and not blended"
    moving = sum(each.frames > 1 for each in headers)
    if moving:
        yield f"{moving} of {total} files hold several frames, of which the first is taken"
    turned = sum(each.turned for each in headers)
    if turned:
        yield f"{turned} of {total} files ask to be turned (EXIF), which is not done"


def name_warnings(found: Found, classes: Sequence[str | None]) -> Iterator[str]:
    """What was left out beside the images, and what their names and classes leave in doubt."""
    total = len(found.names)
    if found.others:
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
        f"({'' if one else 'such as '}{found.others[0]}) {'is' if one else 'are'}"
    )
