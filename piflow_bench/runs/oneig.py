"""A run's pictures as OneIG-Benchmark's scorers read them.

They read ``CLASS/MODEL/ID.webp`` (its README, "Image Generation"): of every prompt one lossy webp,
a single picture or a grid of 2 by 2, called by the prompt's id in ``OneIG-Bench.csv``. What they
find is brought back by ``report RUN elsewhere=FILE.csv``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.files.atomic import write_atomically, write_json
from piflow_bench.files.hub import local_path
from piflow_bench.files.prompts import TABLES, list_of, read_table

if TYPE_CHECKING:
    from piflow_bench.pipeline.plan import Cell
    from piflow_bench.runs.run import Run

CLASSES = {
    "Anime_Stylization": "anime",
    "Portrait": "human",
    "General_Object": "object",
    "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning",
    "Multilingualism": "multilingualism",
}
"""Folders of the benchmark's categories."""
SEEDS = (1, 4)
"""Pictures of a prompt that a file may hold."""
MADE = "made.json"


@dataclass(frozen=True)
class Entry:
    """A prompt's place in the benchmark."""

    folder: str
    id: str


def write_grids(
    run: Run,
    out: Path,
    variant: str | None,
    nfe: int | None,
    report: Callable[[str, int, int], None],
) -> list[str]:
    """Write the files of a run's samples at the end of its budgets, or go on with it.

    Args:
        run: of OneIG's prompts, 1 or 4 samples each.
        out: the folder that the scorers call ``image_dir``.
        variant: of this one alone; None: of every variant and of the converged teacher.
        nfe: at this one alone.
        report: is told what is written, how many are done, of how many.

    Returns:
        Names of the models, ``VARIANT-4nfe``.

    Raises:
        UserError: if the prompts are not the benchmark's, or another number of samples is drawn.
    """
    seeds = int(run.config.dataset.get("seeds", 1))
    if run.config.dataset.get("name") != "prompts":
        raise UserError("grids=oneig: is of runs with dataset=prompts, of OneIG's list")
    if seeds not in SEEDS:
        raise UserError(f"grids=oneig: {seeds} samples a prompt; OneIG reads 1 or 4: dataset.seeds")
    entries = _entries(run.config.dataset)
    done: list[str] = []
    for cell, name in _named(run, variant, nfe):
        samples = run.samples_of(cell)
        count = min(len(samples) // seeds, len(entries))
        fresh = _begin(out, name, [stage.key for stage in cell.samples])
        for i, entry in enumerate(entries[:count]):
            path = out / entry.folder / name / f"{entry.id}.webp"
            if fresh or not path.is_file():
                pictures = run.images(np.array(samples[i * seeds : (i + 1) * seeds]))
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, tiled(pictures))
            report(f"{name}: grids", i + 1, count)
        done.append(name)
    return done


def _begin(out: Path, name: str, keys: list[str]) -> bool:
    """Note what a model's pictures are made of; whether those that lie there are of other samples.

    The note lies beside the classes: scorers take every file below them.
    """
    path = out / MADE
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known.get(name) == keys:
        return False
    there = [out / folder / name for folder in CLASSES.values() if (out / folder / name).exists()]
    if there and name not in known:  # Somebody else's, or of another program.
        raise UserError(f"{there[0]}: is there, and not of an earlier call; give another out=")
    out.mkdir(parents=True, exist_ok=True)
    for folder in there:
        shutil.rmtree(folder)
    write_json(path, {**known, name: keys})
    return True


def tiled(pictures: np.ndarray) -> np.ndarray:
    """``(G, h, w, c)`` pictures as one of ``sqrt(G)`` rows and columns, row by row."""
    side = math.isqrt(len(pictures))
    rows = [np.concatenate(pictures[r * side : (r + 1) * side], axis=1) for r in range(side)]
    return np.concatenate(rows)


def _write(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    # PIL's default for webp, which is lossy: as the benchmark's own script writes it.
    write_atomically(path, lambda place: Image.fromarray(picture).save(place, format="webp"))


def _entries(dataset: dict[str, Any]) -> list[Entry]:
    """The benchmark's classes and ids of the prompts that were drawn, in their order."""
    where = f"dataset.prompts={dataset['prompts']}"
    path = list_of(local_path(str(dataset["prompts"]), where), where)
    table = read_table(path) if path.suffix in TABLES else None
    lacking = [c for c in ("category", "id") if table is None or c not in table.columns]
    if table is None or lacking:
        raise UserError(f"{where}: has no column '{lacking[0]}'; OneIG-Bench.csv has")
    found = []
    for category, number in zip(table["category"], table["id"], strict=True):
        if category not in CLASSES:
            raise UserError(f"{where}: category {category}: {', '.join(CLASSES)} are OneIG's")
        if not str(number).isdecimal():
            raise UserError(f"{where}: id {number}: must be a number")
        found.append(Entry(CLASSES[category], f"{int(number):03d}"))
    return found[: dataset.get("first")]


def _named(run: Run, variant: str | None, nfe: int | None) -> Iterator[tuple[Cell, str]]:
    """Cells whose samples are meant, with the names of their models."""
    named: dict[str, list[Cell]] = {}
    for cell in run.sampled(variant, nfe):
        c = cell.columns
        name = c["variant"] if c["role"] == "control" else f"{c['variant']}-{c['nfe']}nfe"
        named.setdefault(name, []).append(cell)
    for name, cells in named.items():
        for i, cell in enumerate(cells, 1):  # Of several train seeds, or ways of sampling.
            yield cell, name if len(cells) == 1 else f"{name}-{i}"
