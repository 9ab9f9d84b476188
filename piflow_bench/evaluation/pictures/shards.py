"""Folders of npz files that are one set together: part-000.npz, part-001.npz, in natural order."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.npz import open_npz


def open_shards(folder: Path, files: Sequence[str], what: str) -> Images:
    """The images of the npz files among ``files``, paths below the folder in natural order.

    Raises:
        UserError: for a file without images, for several sizes, and where some files state classes
            and others do not.
    """
    where = f"{what}={folder}"
    names = [name for name in files if PurePosixPath(name).suffix.lower() == ".npz"]
    parts = [open_npz(folder / name, what) for name in names]
    first = parts[0]
    for name, part in zip(names, parts, strict=True):
        if (part.height, part.width) != (first.height, first.width):
            raise UserError(
                f"{where}: images of several sizes: {names[0]} holds {first.width}x{first.height}, "
                f"{name} {part.width}x{part.height}; resize them by one rule first"
            )
        if (part.labels is None) != (first.labels is None):
            with_classes, without = (names[0], name) if part.labels is None else (name, names[0])
            raise UserError(
                f"{where}: {with_classes} states classes (arr_1) and {without} does not; "
                "give all of them arr_1, or none"
            )
    others = Counter(PurePosixPath(name).suffix.lower() for name in files if name not in names)
    warnings = []
    if others:
        listed = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in
                           sorted(others.items()))  # fmt: skip
        warnings.append(f"{where}: left out beside {len(names)} npz files: {listed}")
    whole = joined(parts, str(folder))
    return replace(whole, warnings=(*whole.warnings, *warnings))


def joined(parts: Sequence[Images], path: str) -> Images:
    """Sets of equally large images, all with classes or none, as one."""
    first = parts[0]
    edges = np.cumsum([0, *map(len, parts)])

    def rows(places: np.ndarray) -> np.ndarray:
        of = np.searchsorted(edges, places, side="right") - 1
        runs = np.split(np.arange(len(places)), np.flatnonzero(np.diff(of)) + 1)
        found = [parts[of[run[0]]].rows(places[run] - edges[of[run[0]]]) for run in runs]
        return np.concatenate(found)

    def fingerprint() -> str:
        digests = "".join(f"{len(part)} {part.fingerprint()}\n" for part in parts)
        return hashlib.sha256(digests.encode()).hexdigest()

    labels = None
    if first.labels is not None:
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    warnings = tuple(text for part in parts for text in part.warnings)
    return Images(
        path, int(edges[-1]), first.height, first.width, rows, fingerprint, warnings, labels
    )
