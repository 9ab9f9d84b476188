"""Reads runs' folders, forgiving about what is missing."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.run import Grid, Run, Selections

from piflow_bench.errors import UserError
from piflow_bench.pipeline.results import elsewhere
from piflow_bench.pipeline.results.frames import typed
from piflow_bench.pipeline.results.schema import BREAKDOWN, CURVES, ORDER, RESULTS, Status, Table


def read(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        UserError: if there is no results table, or it cannot be read.
    """
    if not (folder / RESULTS.file).is_file():
        raise UserError(
            f"{folder}: no {RESULTS.file} there; name the folder of a finished or partial run"
        )
    try:
        results = normalise(pd.read_parquet(folder / RESULTS.file))
        info_path = folder / "run.json"
        info = json.loads(info_path.read_text("utf-8")) if info_path.is_file() else {}
        _refuse_other(info)
        if kept := elsewhere.of_run(folder):
            info["elsewhere"] = elsewhere.as_plain(kept)
        curves = _read(folder, CURVES)
        grid_path = folder / "grids.npz"
        grid = read_grid(grid_path) if grid_path.is_file() else None
        parts = _measured(_read(folder, BREAKDOWN))
        picks_path = folder / "selections.npz"
        picks = read_selections(picks_path) if picks_path.is_file() else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{folder}: cannot be read as a run ({error})") from error
    name = str(info.get("name") or folder.resolve().name)
    return Run(name, results, curves, grid, info, parts, picks)


def _refuse_other(info: Any) -> None:
    """Refuse facts that are no facts of a run."""
    facts: list[Any] = [None]
    if isinstance(info, dict):
        facts = [info.get(key) or [] for key in ("variants", "failures")]
    if not all(isinstance(x, list) and all(isinstance(e, dict) for e in x) for x in facts):
        raise ValueError("run.json is not what a run writes")


def _read(folder: Path, table: Table) -> pd.DataFrame:
    """A table that a run may lack; then it has no columns."""
    path = folder / table.file
    return typed(pd.read_parquet(path), table) if path.is_file() else pd.DataFrame()


def _measured(breakdown: pd.DataFrame) -> pd.DataFrame:
    """Values by sample count and by class that can be shown."""
    if not len(breakdown):
        return pd.DataFrame()
    known = breakdown[np.isfinite(breakdown["value"]) & (breakdown["n"] > 0)]
    return known.reset_index(drop=True) if len(known) else pd.DataFrame()


def normalise(results: pd.DataFrame) -> pd.DataFrame:
    """The results table with every expected column, plain types and a fixed row order."""
    frame = typed(results, RESULTS)
    # A row without a finite value is a hole, whatever it says of itself.
    lost = (frame["status"] == Status.OK) & ~np.isfinite(frame["value"])
    frame.loc[lost & (frame["reason"] == ""), "reason"] = "the value is not a number"
    frame.loc[lost, "status"] = str(Status.FAILED)
    return frame.sort_values([*ORDER], kind="stable", na_position="first").reset_index(drop=True)


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
