"""Reads a run's folder, forgiving about what is missing, and merges runs of one protocol."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from piflow_bench.errors import UserError

TEXTS = [
    "run",
    "experiment",
    "variant",
    "method",
    "family",
    "track",
    "role",
    "sampler",
    "question",
    "metric",
    "extractor",
    "reference",
    "protocol",
    "artifact",
    "status",
    "reason",
    "git_commit",
    "versions",
    "hardware",
    "start",
]
NUMBERS = [
    "train_seed",
    "sample_seed",
    "budget_tfe",
    "budget_fraction",
    "nfe",
    "guidance",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "train_tfe",
    "train_images",
    "train_seconds",
    "params",
    "flops_per_sample",
    "sample_seconds",
    "policy_seconds",
    "duration",
]
ORDER = [
    *[
        "role",
        "track",
        "variant",
        "sampler",
        "guidance",
        "nfe",
        "question",
        "extractor",
        "metric",
        "protocol",
    ],
    *["train_seed", "sample_seed", "budget_fraction", "artifact"],
]


@dataclass(frozen=True)
class Grid:
    """Samples that share noise and label column by column."""

    labels: np.ndarray
    index: np.ndarray
    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """All that a section of the page is made of."""

    name: str
    results: pd.DataFrame
    curves: pd.DataFrame
    grid: Grid | None
    info: dict[str, Any] = field(default_factory=dict)


def read(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        UserError: if there is no results table, or it cannot be read.
    """
    path = folder / "results.parquet"
    if not path.is_file():
        raise UserError(
            f"{folder}: no results.parquet there; name the folder of a finished or partial run"
        )
    try:
        results = normalise(pd.read_parquet(path))
        info_path = folder / "run.json"
        info = json.loads(info_path.read_text("utf-8")) if info_path.is_file() else {}
        curves_path = folder / "curves.parquet"
        curves = pd.read_parquet(curves_path) if curves_path.is_file() else pd.DataFrame()
        grid_path = folder / "grids.npz"
        grid = read_grid(grid_path) if grid_path.is_file() else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder}: cannot be read as a run ({error})") from error
    name = str(info.get("name") or folder.resolve().name)
    return Run(name, results, curves, grid, info)


def normalise(results: pd.DataFrame) -> pd.DataFrame:
    """The results table with every expected column, plain types and a fixed row order."""
    frame = results.copy()
    for name in TEXTS:
        column = frame[name] if name in frame else pd.Series([""] * len(frame), index=frame.index)
        frame[name] = column.astype(object).where(column.notna(), "").map(str)
    for name in NUMBERS:
        column = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
        frame[name] = pd.to_numeric(column, errors="coerce").astype(float)
    if "higher_is_better" not in frame:
        frame["higher_is_better"] = None
    frame["higher_is_better"] = [
        None if pd.isna(h) else bool(h) for h in frame["higher_is_better"].astype(object)
    ]
    frame["higher_is_better"] = frame["higher_is_better"].astype(object)
    if "replicates" not in frame:
        frame["replicates"] = [[] for _ in range(len(frame))]
    frame["replicates"] = [
        [] if r is None or np.isscalar(r) else [float(v) for v in r] for r in frame["replicates"]
    ]
    frame["status"] = np.where(frame["status"] == "", "ok", frame["status"])
    frame["role"] = np.where(frame["role"] == "", "student", frame["role"])
    frame["track"] = np.where(frame["track"] == "", "none", frame["track"])
    # A row without a finite value is a hole, whatever it says of itself.
    lost = (frame["status"] == "ok") & ~np.isfinite(frame["value"])
    frame.loc[lost & (frame["reason"] == ""), "reason"] = "the value is not a number"
    frame.loc[lost, "status"] = "failed"
    return frame.sort_values(ORDER, kind="stable", na_position="first").reset_index(drop=True)


def read_grid(path: Path) -> Grid:
    """Read the sample grid; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    rows = json.loads(str(arrays.pop("rows")))
    labels = arrays.pop("labels", np.zeros(0, dtype=int))
    index = arrays.pop("index", np.arange(len(labels)))
    rows = [row for row in rows if row.get("key") in arrays]
    return Grid(labels, index, rows, arrays)


def protocols(run: Run) -> frozenset[tuple[str, str, str]]:
    """What decides whether two runs may share a ranking."""
    frame = run.results[run.results["protocol"] != ""]
    columns = ["question", "extractor", "protocol"]
    return frozenset(map(tuple, frame[columns].drop_duplicates().to_numpy().tolist()))


def sections(runs: list[Run]) -> list[Run]:
    """One merged run where all were evaluated alike, otherwise the runs as they are."""
    kinds = {(protocols(run), json.dumps(run.info.get("primary"), sort_keys=True)) for run in runs}
    if len(runs) < 2 or len(kinds) > 1 or not next(iter(kinds))[0]:
        return runs
    return [merge(runs)]


def merge(runs: list[Run]) -> Run:
    """Put the rows of several runs together; a student's name in two runs gets the run's name."""
    seen: dict[str, int] = {}
    for run in runs:
        students = run.results[run.results["role"] == "student"]
        for name in students["variant"].unique():
            seen[name] = seen.get(name, 0) + 1
    renamed = []
    for number, run in enumerate(runs):
        # Teachers and controls of one protocol are the same thing twice: the first run's stay.
        results = run.results if number == 0 else run.results[run.results["role"] == "student"]
        names = {name: f"{name} ({run.name})" for name, count in seen.items() if count > 1}
        renamed.append(rename(replace(run, results=results), names))
    first = renamed[0]
    info = dict(first.info)
    for key in ("variants", "failures", "warnings", "references"):
        items: list[Any] = []
        for run in renamed:
            items += [item for item in run.info.get(key) or [] if item not in items]
        info[key] = items
    info["title"] = " + ".join(run.name for run in runs)
    results = normalise(pd.concat([run.results for run in renamed], ignore_index=True))
    curves = [run.curves for run in renamed if len(run.curves)]
    joint = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
    return Run(info["title"], results, joint, merge_grids([r.grid for r in renamed]), info)


def rename(run: Run, names: dict[str, str]) -> Run:
    """The run with some variants under other names."""
    results, curves, info = run.results.copy(), run.curves.copy(), dict(run.info)
    results["variant"] = results["variant"].replace(names)
    if "variant" in curves:
        curves["variant"] = curves["variant"].replace(names)
    info["variants"] = [
        {**v, "name": names.get(str(v.get("name")), v.get("name"))}
        for v in info.get("variants") or []
    ]
    grid = run.grid and replace(
        run.grid,
        rows=[
            {**row, "variant": names.get(str(row.get("variant")), row.get("variant"))}
            for row in run.grid.rows
        ],
    )
    return replace(run, results=results, curves=curves, info=info, grid=grid)


def merge_grids(grids: list[Grid | None]) -> Grid | None:
    """The rows of all grids that show the same sample indices as the first."""
    present = [grid for grid in grids if grid is not None]
    if not present:
        return None
    first = present[0]
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    seen: set[tuple[Any, ...]] = set()
    for number, grid in enumerate(present):
        same = np.array_equal(grid.index, first.index) and np.array_equal(grid.labels, first.labels)
        for row in grid.rows if same else []:
            identity = (row.get("variant"), row.get("nfe"), row.get("train_seed"))
            if identity not in seen:
                seen.add(identity)
                rows.append({**row, "key": f"{number}:{row['key']}"})
                arrays[f"{number}:{row['key']}"] = grid.arrays[row["key"]]
    return Grid(first.labels, first.index, rows, arrays)
