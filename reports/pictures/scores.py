"""Pictures of what was scored: a strip for the reference, the teacher, and every set."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from piflow_reports.pictures.budget import BUDGET
from piflow_reports.pictures.strips import Tiles, side_by_side

from piflow_bench.errors import UserError

FILE = "pictures.npz"
BESIDE = ("reference", "teacher")
"""What stands above the sets, unless a set has the name."""
ALONE = "samples"
"""What the samples are called where there is one set."""
TILE = 64  # Pixels on the page that a picture should about fill.
SIZES = (80, 48, 24)
"""Pixels to which pictures are reduced: the first size that keeps within the budget is taken."""


@dataclass(frozen=True)
class Strip:
    """The pictures of one set, or of what it was scored against."""

    name: str
    kind: str
    """control: the reference or the teacher; student: a set."""
    tiles: Tiles
    count: int


def read(folder: Path) -> dict[str, np.ndarray]:
    """The pictures that were written beside the scores, by name; none where there is no file.

    Raises:
        UserError: if the file cannot be read, or holds something else.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
        for name, rows in found.items():
            if rows.dtype != np.uint8 or rows.ndim != 4 or rows.shape[3] != 3 or not rows.size:
                raise ValueError(f"{name} is no pictures")
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        line = str(error).splitlines()[0] if str(error) else "damaged"
        raise UserError(f"{path}: cannot be read ({line}); score the samples again") from error
    return found


def strips(found: Mapping[str, np.ndarray], sets: Sequence[str]) -> list[Strip]:
    """The reference's and the teacher's pictures, then those of the sets in their order."""
    above = [name for name in BESIDE if name in found and name not in sets]
    order = [(name, "control") for name in above]
    order += [(name, "student") for name in sets if name in found]
    made: list[Strip] = []
    for largest in SIZES:
        made = [
            Strip(name, kind, side_by_side(found[name], TILE, largest), len(found[name]))
            for name, kind in order
        ]
        if sum(len(strip.tiles.uri) for strip in made) <= BUDGET:
            break
    return made
