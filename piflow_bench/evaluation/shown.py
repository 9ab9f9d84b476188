"""Pictures of what was scored: a few of every set, for the page."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from piflow_bench.evaluation.differences import UNPAIRED, pairing
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.sources import Sources
from piflow_bench.evaluation.subsets import subset
from piflow_bench.files.atomic import write_atomically

COUNT = 16
"""Pictures of a set."""
SIDE = 256
"""Pixels of their longer side, at most."""
REFERENCE, TEACHER = "reference", "teacher"


def pictures_of(sets: Mapping[str, Sources]) -> dict[str, np.ndarray]:
    """Pictures ``(k <= COUNT, h, w, 3)`` uint8 of every set, of the reference and of the teacher.

    They are a fixed draw that keeps the shares of classes. Sets whose samples pair up, and the
    teacher, show the same places as the first set. A reference without images has none.
    """
    first = next(iter(sets.values()))
    places = subset(first.count, COUNT, first.labels)
    found = {}
    for name, sources in sets.items():
        own = places
        if sources is not first and pairing(sources, first) == UNPAIRED:
            own = subset(sources.count, COUNT, sources.labels)
        found[name] = _read(sources.samples, own)
    reference = first.reference.images if first.reference else None
    if reference is not None:
        found.setdefault(
            REFERENCE, _read(reference, subset(len(reference), COUNT, reference.labels))
        )
    if first.teacher is not None:
        found.setdefault(TEACHER, _read(first.teacher, places))
    return found


def _read(images: Images, places: np.ndarray) -> np.ndarray:
    rows = images.take(places).read(0, len(places))
    height, width = rows.shape[1:3]
    if max(height, width) <= SIDE:
        return rows
    from PIL import Image

    factor = SIDE / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    reduced = [Image.fromarray(row).resize(size, Image.Resampling.LANCZOS) for row in rows]
    return np.stack([np.asarray(image) for image in reduced])


def write_pictures(path: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """An npz file of pictures, whole or not at all; names of sets may be any text."""

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, rows in pictures.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, rows, allow_pickle=False)

    write_atomically(path, write)
