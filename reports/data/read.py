"""Reads runs' folders, forgiving about what is missing."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.run import Grid, Run, Selections

from piflow_bench.errors import UserError

TEXTS = [
    "run",
    "experiment",
    "variant",
    "method",
    "family",
    "track",
    "role",
    "serves",
    "sampler",
    "question",
    "metric",
    "estimator",
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
    "shares",
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
    "train_memory",
    "sample_memory",
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
        table = pd.read_parquet(path)
        info_path = folder / "run.json"
        info = json.loads(info_path.read_text("utf-8")) if info_path.is_file() else {}
        _refuse_other(table, info)
        results = normalise(table)
        curves_path = folder / "curves.parquet"
        curves = pd.read_parquet(curves_path) if curves_path.is_file() else pd.DataFrame()
        grid_path = folder / "grids.npz"
        grid = read_grid(grid_path) if grid_path.is_file() else None
        parts_path = folder / "breakdown.parquet"
        parts = normalise_parts(pd.read_parquet(parts_path) if parts_path.is_file() else None)
        picks_path = folder / "selections.npz"
        picks = read_selections(picks_path) if picks_path.is_file() else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{folder}: cannot be read as a run ({error})") from error
    name = str(info.get("name") or folder.resolve().name)
    return Run(name, results, curves, grid, info, parts, picks)


def _refuse_other(table: pd.DataFrame, info: Any) -> None:
    """Refuse what is no run's: a table without results, facts that are no facts."""
    lacking = [name for name in ("variant", "metric", "value") if name not in table]
    if lacking:
        raise ValueError(f"results.parquet has no column {' and no column '.join(lacking)}")
    facts: list[Any] = [None]
    if isinstance(info, dict):
        facts = [info.get(key) or [] for key in ("variants", "failures")]
    if not all(isinstance(x, list) and all(isinstance(e, dict) for e in x) for x in facts):
        raise ValueError("run.json is not what a run writes")


def normalise_parts(breakdown: pd.DataFrame | None) -> pd.DataFrame:
    """Values by sample count and by class that can be shown, with every expected column."""
    if breakdown is None:
        return pd.DataFrame()
    texts = ("variant", "role", "sampler", "kind", "group", "metric")
    frame = _typed(breakdown, texts, ("nfe", "n", "value", "guidance", "train_seed"))
    known = frame[np.isfinite(frame["value"]) & (frame["n"] > 0)]
    return known.reset_index(drop=True) if len(known) else pd.DataFrame()


def _typed(table: pd.DataFrame, texts: Iterable[str], numbers: Iterable[str]) -> pd.DataFrame:
    """The table with these columns, empty or NaN where it has them not, as plain types."""
    frame = table.copy()
    for name in texts:
        column = frame[name] if name in frame else pd.Series([""] * len(frame), index=frame.index)
        frame[name] = column.astype(object).where(column.notna(), "").map(str)
    for name in numbers:
        column = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
        frame[name] = pd.to_numeric(column, errors="coerce").astype(float)
    return frame


def normalise(results: pd.DataFrame) -> pd.DataFrame:
    """The results table with every expected column, plain types and a fixed row order."""
    frame = _typed(results, TEXTS, NUMBERS)
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


def read_selections(path: Path) -> Selections:
    """Read the samples that were picked by rules; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    return Selections(json.loads(str(arrays.pop("cells"))), arrays)


def read_all(folders: list[Path]) -> list[Run]:
    """Read several runs' folders; runs of one name are called by their folders.

    Raises:
        UserError: if a folder is named twice, or ``read`` cannot read one.
    """
    real = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, real, strict=True):
        if real.count(path) > 1:
            raise UserError(f"{folder}: is named twice; name every run once")
    runs = [read(folder) for folder in folders]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(folder)) if names.count(run.name) > 1 else run
        for run, folder in zip(runs, folders, strict=True)
    ]
