"""Reads a run's folder, forgiving about what is missing, and merges runs of one protocol."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable
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


@dataclass(frozen=True)
class Grid:
    """Samples that share noise and label column by column."""

    labels: np.ndarray
    index: np.ndarray
    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Selections:
    """Samples picked by stated rules: what is known of each cell, and its pictures by name."""

    cells: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """All that a section of the page is made of."""

    name: str
    results: pd.DataFrame
    curves: pd.DataFrame
    grid: Grid | None
    info: dict[str, Any] = field(default_factory=dict)
    breakdown: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Values by sample count and by class."""
    selections: Selections | None = None
    merged: tuple[Run, ...] = ()
    """The runs that this one was put together from, each with its own rows."""


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


def protocols(run: Run) -> frozenset[str]:
    """What decides whether two runs may share a ranking: the hashes of their rules."""
    return frozenset(run.results["protocol"]) - {""}


def sections(runs: list[Run]) -> list[Run]:
    """Runs that were evaluated alike merged into one, the others as they are; in their order."""
    groups: dict[Any, list[Run]] = {}
    for number, run in enumerate(runs):
        primary = json.dumps(run.info.get("primary"), sort_keys=True)
        key = (protocols(run), primary) if protocols(run) else number
        groups.setdefault(key, []).append(run)
    return [merge(group) if len(group) > 1 else group[0] for group in groups.values()]


def rules_apart(runs: list[Run]) -> list[str]:
    """The rules of evaluation that differ between runs, in words: 'samples: 1000 and 2000'."""
    rules = []
    for run in runs:
        texts = run.results["rules"] if "rules" in run.results else pd.Series(dtype=str)
        own = json.loads(next((text for text in texts if text), "{}"))
        rules.append({**own, "primary metrics": run.info.get("primary")})
    keys = sorted(set().union(*rules))
    found = []
    for key in keys:
        values = list(dict.fromkeys(_short(each.get(key)) for each in rules))
        if len(values) > 1:
            found.append(f"{key}: {' and '.join(values)}")
    return found


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def merge(runs: list[Run]) -> Run:
    """Put the rows of several runs together; a student's name in two runs gets the run's name.

    Teachers and controls of one protocol are the same in every run: each of their cells stays once.
    """
    seen: dict[str, int] = {}
    for run in runs:
        students = run.results[run.results["role"] == "student"]
        for name in students["variant"].unique():
            seen[name] = seen.get(name, 0) + 1
    renamed = []
    for run in runs:
        names = {name: f"{name} ({run.name})" for name, count in seen.items() if count > 1}
        renamed.append(rename(run, names))
    first = renamed[0]
    info = dict(first.info)
    for key in ("variants", "failures", "warnings", "references"):
        items: list[Any] = []
        for run in renamed:
            items += [item for item in run.info.get(key) or [] if item not in items]
        info[key] = items
    info["title"] = " + ".join(run.name for run in runs)
    info["warnings"] = info["warnings"] + [
        f"{name}: its samples have other indices or labels and are not shown beside the others"
        for name in _apart([(run.name, run.grid) for run in runs])
    ]
    results = normalise(_once(_joint([run.results for run in renamed])))
    return Run(
        info["title"],
        results,
        _joint([run.curves for run in renamed]),
        merge_grids([run.grid for run in renamed]),
        info,
        _joint([run.breakdown for run in renamed]),
        merge_selections([run.selections for run in renamed]),
        tuple(runs),
    )


def _once(results: pd.DataFrame) -> pd.DataFrame:
    """Every cell of teachers and controls once: the first run's that has values."""
    cell = ["variant", "sampler", "guidance", "nfe"]
    others = results[results["role"] != "student"]
    others = others.assign(
        cell=list(zip(*(others[name].astype(str) for name in cell), strict=True))
    )
    good = others["status"] == "ok"
    # A failure may name no measure: it goes where another run has the cell's values.
    kept = others[good | ~others["cell"].isin(set(others.loc[good, "cell"]))]
    kept = kept.drop_duplicates(["cell", "question", "extractor", "metric", "protocol"])
    return pd.concat([results[results["role"] == "student"], kept.drop(columns="cell")])


def _joint(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def rename(run: Run, names: dict[str, str]) -> Run:
    """The run with some variants under other names."""
    tables = [run.results.copy(), run.curves.copy(), run.breakdown.copy()]
    for table in tables:
        if "variant" in table:
            table["variant"] = table["variant"].replace(names)
    info = dict(run.info)
    info["variants"] = [
        {**v, "name": names.get(str(v.get("name")), v.get("name"))}
        for v in info.get("variants") or []
    ]
    grid = run.grid and replace(run.grid, rows=_renamed(run.grid.rows, names))
    picks = run.selections
    picks = picks and replace(picks, cells=_renamed(picks.cells, names))
    results, curves, breakdown = tables
    return replace(
        run,
        results=results,
        curves=curves,
        info=info,
        grid=grid,
        breakdown=breakdown,
        selections=picks,
    )


def _renamed(rows: list[dict[str, Any]], names: dict[str, str]) -> list[dict[str, Any]]:
    return [{**r, "variant": names.get(str(r.get("variant")), r.get("variant"))} for r in rows]


def merge_selections(several: list[Selections | None]) -> Selections | None:
    """The cells of all; of one thing in two runs the first's."""
    cells: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    seen: set[tuple[Any, ...]] = set()
    for number, own in enumerate(several):
        for cell in own.cells if own else []:
            identity = (cell.get("variant"), cell.get("nfe"), cell.get("sampler"))
            if own is None or identity in seen:
                continue
            seen.add(identity)
            cells.append({**cell, "key": f"{number}:{cell['key']}"})
            start = f"{cell['key']}/"
            arrays |= {f"{number}:{k}": v for k, v in own.arrays.items() if k.startswith(start)}
    return Selections(cells, arrays) if cells else None


def _apart(grids: list[tuple[str, Grid | None]]) -> list[str]:
    """The runs whose grids show other samples than the first grid there is."""
    present = [(name, grid) for name, grid in grids if grid is not None]
    return [name for name, grid in present[1:] if not _same_samples(grid, present[0][1])]


def _same_samples(a: Grid, b: Grid) -> bool:
    return np.array_equal(a.index, b.index) and np.array_equal(a.labels, b.labels)


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
        for row in grid.rows if _same_samples(grid, first) else []:
            identity = tuple(row.get(k) for k in ("variant", "nfe", "train_seed", "sampler"))
            if identity not in seen:
                seen.add(identity)
                rows.append({**row, "key": f"{number}:{row['key']}"})
                arrays[f"{number}:{row['key']}"] = grid.arrays[row["key"]]
    return Grid(first.labels, first.index, rows, arrays)
