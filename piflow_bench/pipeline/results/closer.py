"""What a closer look at some samples found: values by count and class, samples picked by rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from piflow_bench.pipeline.labels import captions
from piflow_bench.pipeline.plan import Cell, Plan
from piflow_bench.pipeline.results.frames import framed
from piflow_bench.pipeline.results.schema import BREAKDOWN
from piflow_bench.pipeline.stage import Task
from piflow_bench.pipeline.stages import breakdown, selection, within
from piflow_bench.pipeline.stages.breakdown import BreakDown
from piflow_bench.pipeline.stages.selection import Select
from piflow_bench.pipeline.stages.within import Within
from piflow_bench.pipeline.store.store import Store


def shown(cell: Cell) -> dict[str, Any]:
    """Which samples are looked at."""
    names = ("variant", "nfe", "train_seed", "role", "sampler", "guidance")
    return {name: cell.columns[name] for name in names}


def breakdown_table(plan: Plan, store: Store) -> pd.DataFrame:
    """Values by sample count, by class and within classes of every cell looked at closely."""
    rows: list[dict[str, Any]] = []
    for about, folder in _looks(plan, store, BreakDown):
        found = json.loads((folder / breakdown.FILE).read_text())
        rows += [{**about, "replicates": [], **row} for row in found]
    for about, folder in _looks(plan, store, Within):
        found = json.loads((folder / within.FILE).read_text())
        labels = [int(row["group"]) for row in found]
        if plan.dataset is not None:
            labels = captions(plan.dataset.train_condition, labels)
        rows += [
            {**about, **row, "group": str(label)} for row, label in zip(found, labels, strict=True)
        ]
    return framed(rows, BREAKDOWN)


def selections(plan: Plan, store: Store) -> dict[str, np.ndarray]:
    """Samples picked by stated rules: arrays, and ``cells`` that says whose they are."""
    arrays: dict[str, np.ndarray] = {}
    cells = []
    for number, (about, folder) in enumerate(_looks(plan, store, Select)):
        found = json.loads((folder / selection.FACTS).read_text())
        for row in found["rows"]:
            if "label" in row and plan.dataset is not None:
                row["label"] = captions(plan.dataset.train_condition, row["label"])
        cells.append({**about, **found, "key": f"{number}"})
        with np.load(folder / selection.PICTURES, allow_pickle=False) as data:
            arrays |= {f"{number}/{name}": data[name] for name in data.files}
    return {**arrays, "cells": np.array(json.dumps(cells))}


def _looks(plan: Plan, store: Store, kind: type[Task]) -> list[tuple[dict[str, Any], Path]]:
    """The cells that have a closer look of a kind, with its folder."""
    return [
        (shown(cell), store.path(stage))
        for cell in plan.cells
        for stage in cell.closer
        if isinstance(stage.task, kind) and store.has(stage)
    ]
