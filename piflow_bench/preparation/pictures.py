"""A user's own pictures, made ready once: one array that is mapped, labels, and what to beware of.

A prepared folder holds ``images.npy`` uint8 ``(n, h, w, c)``, ``labels.npy`` int64 ``(n,)`` where
there are classes, ``hashes.npy`` uint8 ``(n, 16)`` of the images' pixels, and ``pictures.json``.
It appears by one rename, and is taken again while its source's files have the same names, sizes
and times of change.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.folders import walk
from piflow_bench.files.atomic import check_writable, exchange, read_json
from piflow_bench.preparation.picture_opening import labels_file, open_source, stamp
from piflow_bench.preparation.picture_sizes import as_size
from piflow_bench.preparation.picture_split import split_rows
from piflow_bench.preparation.picture_writing import (
    FACTS,
    FORMAT,
    HASHES,
    IMAGES,
    LABELS,
    Job,
    Report,
    planned,
    write,
)
from piflow_bench.threads import cores

WRITER = 1
"""Version of what writes the folder; raised when other bytes would come out."""
FEWEST = 20
"""Pictures below which there is nothing to train on."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Prepared pictures."""

    images: np.ndarray
    """uint8 ``(n, h, w, c)``, mapped; c is 1 where all are grey, else 3."""
    labels: np.ndarray | None
    """int64 ``(n,)``, from 0 on; None where there are no classes."""
    classes: tuple[str, ...] | None
    """Their names, in the order of the labels."""
    hashes: np.ndarray
    """uint8 ``(n, 16)``, of every picture's pixels."""
    train: int | None
    """How many of the first pictures are the source's own training part; None: it has none."""
    digest: str
    """sha256 of all that decides what these pictures are: pixels, labels, classes, parts."""
    cautions: tuple[str, ...]
    facts: dict[str, Any]
    """The content of ``pictures.json``."""

    def __len__(self) -> int:
        return len(self.images)


def prepare_pictures(
    source: Path | str,
    out: Path | str,
    *,
    size: int | Sequence[int] | None = None,
    crop: str = "centre",
    labels: Path | str | None = None,
    report: Report = lambda share, text: None,
) -> Pictures:
    """Read the pictures of ``source`` into the folder ``out``, unless they are there as asked.

    Args:
        source: a folder of images at any depth, whose first subfolders are classes; a zip or tar
            file of such; an npz, npy, idx or parquet file; a folder of idx or parquet files. What
            has a part ``train`` and one ``test`` (or ``val``) is taken as split so.
        out: the folder that is made, or made anew where the source or a setting is another.
        size: side of squares, or (height, width), pixels; None: the one that all images have.
        crop: the rule by which images come to that size (see ``picture_sizes``).
        labels: a file of labels (see ``picture_labels``), also by its name in the source's folder;
            a column of parquet files; ``none`` for no classes; None: those of the source.
        report: told of progress.

    Raises:
        UserError: naming what is wrong with the images, the labels or the settings; nothing is
            left half-written.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    sides = as_size(size, crop)
    if not source.exists():
        raise UserError(f"source={source}: no such file or folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"out={out}: lies in source={source}; choose a folder elsewhere")
    given = None if labels is None else str(labels)
    found = walk(source, "source") if source.is_dir() else None
    file = labels_file(source, given)
    task = {
        "source": stamp(source, found),
        "labels": given if file is None else stamp(file),
        "size": None if sides is None else list(sides),
        "crop": crop,
        "writer": WRITER,
    }
    if kept := _kept(out, task):
        report(1.0, "as prepared before")
        return kept
    _check_place(out)
    pictures = open_source(source, found, given, file)
    if len(pictures) < FEWEST:
        raise UserError(f"source={source}: {len(pictures)} images are too few; {FEWEST} is least")
    with ThreadPoolExecutor(cores()) as pool:
        job = Job(pictures, file, sides, crop, f"source={source}", pool, report)
        plan = planned(job)
        with _room(out, math.prod(plan.shape)) as fresh:
            # Meanwhile another process may have made it.
            if not _kept(out, task):
                write(job, plan, fresh, {"task": task, "source": str(source)})
                exchange(fresh, out, out.with_name(f".{out.name}.old"))
    return open_pictures(out)


def open_pictures(folder: Path | str) -> Pictures:
    """The pictures of a prepared folder.

    Raises:
        UserError: if it is none, or not whole.
    """
    folder = Path(folder)
    facts = read_json(folder / FACTS)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(f"pictures={folder}: holds no prepared pictures; prepare them anew")
    try:
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        hashes = np.load(folder / HASHES, allow_pickle=False)
        labels = None
        if facts["classes"] is not None:
            labels = np.load(folder / LABELS, allow_pickle=False)
        shape = (facts["n"], *facts["size"], facts["channels"])
        counts = {len(each) for each in (images, hashes, labels) if each is not None}
        if images.shape != shape or images.dtype != np.uint8 or counts != {facts["n"]}:
            raise ValueError(f"{images.dtype} {images.shape}, not {shape}")
        classes = None if labels is None else tuple(facts["classes"])
        return Pictures(
            images, labels, classes, hashes, facts["train"], facts["digest"],
            tuple(facts["cautions"]), facts,
        )  # fmt: skip
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(
            f"pictures={folder}: cannot be read ({error}); prepare them anew"
        ) from error


def split(
    pictures: Pictures, held_out: float | int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, int64.

    Where the source has parts, they are these, whatever the other arguments say; else the split is
    by what the pictures show (see ``split_rows``).
    """
    if pictures.train is not None:
        return np.arange(pictures.train), np.arange(pictures.train, len(pictures))
    return split_rows(pictures.hashes, pictures.labels, held_out, seed)


# ------------------------------------------------------------------ folders


def _kept(out: Path, task: dict[str, Any]) -> Pictures | None:
    """What was prepared from the same source by the same settings, and is whole."""
    facts = read_json(out / FACTS)
    if not isinstance(facts, dict) or facts.get("task") != task:
        return None
    try:
        return open_pictures(out)
    except UserError:
        return None


def _check_place(out: Path) -> None:
    ours = (out / FACTS).is_file() or not out.exists()
    if not ours and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out}: holds other files; choose an empty folder")
    check_writable("out", out)


@contextmanager
def _room(out: Path, needed: int) -> Iterator[Path]:
    """A fresh folder beside ``out`` for so many bytes, which nobody else writes to meanwhile."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if needed > free:
            raise UserError(
                f"out={out}: {needed / 1e9:.1f} GB of pictures, {free / 1e9:.1f} GB free; choose "
                "another disk, or a smaller size="
            )
        with FileLock(out.with_name(f".{out.name}.lock")):
            fresh = out.with_name(f".{out.name}.tmp")
            shutil.rmtree(fresh, ignore_errors=True)  # Of a process that was killed.
            fresh.mkdir()
            try:
                yield fresh
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        words = error.strerror or error
        raise UserError(
            f"out={out}: cannot be written ({words}); mend that, or choose another out="
        ) from error
