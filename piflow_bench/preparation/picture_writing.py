"""Writing a user's own pictures as arrays, and what is to be known of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.files import header_warnings
from piflow_bench.files.atomic import write_json
from piflow_bench.files.digests import file_digest
from piflow_bench.preparation.picture_files import PictureSource
from piflow_bench.preparation.picture_labels import numbered, read_labels
from piflow_bench.preparation.picture_sizes import (
    common_size,
    fitted,
    refuse_larger,
    size_cautions,
)

FACTS, FORMAT = "pictures.json", 1
IMAGES, LABELS, HASHES = "images.npy", "labels.npy", "hashes.npy"
HASH = 16
"""Bytes of a picture's hash."""
AT_ONCE = 256
"""Pictures that are decoded before they are written."""
FEW = 6
"""Classes that a caution names."""
LOOKED = 0.1
"""Share of the work that looking at all headers is taken for."""

Report = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and words."""


@dataclass(frozen=True)
class Job:
    """Pictures, and what it takes to write them."""

    source: PictureSource
    labels: Path | None
    """A file of labels."""
    size: tuple[int, int] | None
    """Height and width; None: what all have."""
    crop: str
    where: str
    """For messages."""
    pool: ThreadPoolExecutor
    report: Report

    def each(self, of: Callable[[int], Any], begin: float, end: float, text: str) -> Iterator[Any]:
        """Results for all pictures, in order, on the way from one share of the work to another.

        Raises:
            UserError: at the end, of the first picture that cannot be read, with their number.
        """
        failed: list[UserError] = []
        total = len(self.source)

        def attempt(i: int) -> Any:
            try:
                return of(i)
            except UserError as error:
                return error

        for start in range(0, total, AT_ONCE):
            stop = min(start + AT_ONCE, total)
            for result in self.pool.map(attempt, range(start, stop)):
                if isinstance(result, UserError):
                    failed.append(result)
                elif not failed:
                    yield result
            self.report(begin + (end - begin) * stop / total, text)
        if failed:
            more = f"; {len(failed)} of {total} images are refused" if len(failed) > 1 else ""
            raise UserError(f"{failed[0]}{more}")


@dataclass(frozen=True)
class Plan:
    """What is written, as the headers and the labels say."""

    shape: tuple[int, int, int, int]
    """Of the array of images ``(n, h, w, c)``."""
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    cautions: tuple[str, ...]


def planned(job: Job) -> Plan:
    """What is to be written.

    Raises:
        UserError: for labels and headers that are refused, and for sizes that differ.
    """
    names, total = job.source.names, len(job.source)
    labels, classes, cautions = _labels(job)
    headers = list(job.each(job.source.header, 0, LOOKED, "looked at"))
    size = job.size or common_size(headers, names, job.where)
    if job.crop == "pad":
        refuse_larger(headers, names, size, job.where)
    grey = sum(each.grey for each in headers)
    cautions = [*job.source.notes, *header_warnings(headers), *cautions]
    if 0 < grey < total:
        cautions.append(f"{grey} of {total} images are grey and were given three channels")
    cautions += size_cautions(headers, names, size, job.crop)
    if labels is not None and classes and job.source.train is not None:
        unseen = np.setdiff1d(labels[job.source.train :], labels[: job.source.train])
        if len(unseen):
            shown = ", ".join(classes[k] for k in unseen[:FEW])
            cautions.append(
                f"{len(unseen)} of {len(classes)} classes have no training images: {shown}"
            )
    return Plan((total, *size, 1 if grey == total else 3), labels, classes, tuple(cautions))


def _labels(job: Job) -> tuple[np.ndarray | None, tuple[str, ...] | None, list[str]]:
    source, order = job.source, job.source.order
    classes = source.classes
    if job.labels is not None:
        classes, order = read_labels(job.labels, source.names, source.by_place), None
    if classes is None:
        return None, None, []
    return numbered(classes, order, folders=job.labels is None and not source.by_place)


def write(job: Job, plan: Plan, folder: Path, facts: dict[str, Any]) -> None:
    """Write the pictures and ``facts``, with what is found of them, into an empty folder.

    Raises:
        UserError: for images that cannot be read.
    """
    height, width, channels = plan.shape[1:]

    def pixels(i: int) -> np.ndarray:
        return fitted(job.source.read(i)[..., :channels], (height, width), job.crop)

    hashes = _stack(folder / IMAGES, job.each(pixels, LOOKED, 1, "read"), plan.shape)
    np.save(folder / HASHES, hashes)
    if plan.labels is not None:
        np.save(folder / LABELS, plan.labels)
    deciding = {
        "images": file_digest(folder / IMAGES),
        "labels": None if plan.labels is None else file_digest(folder / LABELS),
        "classes": plan.classes,
        "train": job.source.train,
    }
    found = {
        "n": plan.shape[0],
        "size": (height, width),
        "channels": channels,
        "crop": job.crop if job.size else None,
        **deciding,
        "digest": hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest(),
        "left_out": job.source.left_out or {},
        "cautions": [*plan.cautions, *_duplicates(hashes, plan.labels, job.source)],
    }
    write_json(folder / FACTS, {"format": FORMAT, **facts, **found}, indent=1)


def _stack(path: Path, pictures: Iterator[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Write pictures of ``shape[1:]`` as one npy file; returns their hashes."""
    hashes = np.zeros((shape[0], HASH), np.uint8)
    with path.open("wb") as file:
        form = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, form)  # type: ignore[arg-type]
        for row, pixels in zip(hashes, pictures, strict=True):
            content = np.ascontiguousarray(pixels).tobytes()
            row[:] = np.frombuffer(hashlib.blake2b(content, digest_size=HASH).digest(), np.uint8)
            file.write(content)
    return hashes


def _duplicates(
    hashes: np.ndarray, labels: np.ndarray | None, source: PictureSource
) -> Iterator[str]:
    """Cautions of equal pictures, and of those that are on both sides of the source's own split."""
    _, first, group = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    like = first[group.reshape(-1)]  # The first picture that each is equal to.
    again = np.flatnonzero(like != np.arange(len(hashes)))
    if not len(again):
        return
    names, one, train = source.names, again[0], source.train
    text = (
        f"{len(again)} of {len(hashes)} images are equal to another one, such as {names[one]} to "
        f"{names[like[one]]}"
    )
    yield text if train else f"{text}; equal ones are held out together or not at all"
    if labels is not None:
        unlike = int((labels[again] != labels[like[again]]).sum())
        if unlike:
            yield f"{unlike} of them are of another class than the one they are equal to"
    if train is not None:
        leaked = [int(i) for i in again if i >= train > like[i]]
        if leaked:
            yield (
                f"{len(leaked)} of {len(hashes) - train} held-out images are in the training part "
                f"too, such as {names[leaked[0]]}: scores of what repeats its training look better "
                "for it"
            )
