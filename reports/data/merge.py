"""Merges runs that were evaluated alike into one."""

from __future__ import annotations

import json
from dataclasses import replace
from os.path import commonprefix
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data import guidances
from piflow_reports.data.read import normalise
from piflow_reports.data.run import Grid, Run, Selections

from piflow_bench.pipeline.results.schema import Status

SEPARATORS = "-_. /"


def protocols(run: Run) -> frozenset[str]:
    """What decides whether two runs may share a ranking: the hashes of their rules."""
    return frozenset(run.results["protocol"]) - {""}


def sections(runs: list[Run]) -> list[Run]:
    """Runs that were evaluated alike merged into one, the others as they are; in their order."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((g for g in groups if all(_alike(run, other) for other in g)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return [merge(group) if len(group) > 1 else group[0] for group in groups]


def _alike(a: Run, b: Run) -> bool:
    """Whether two runs may share a ranking."""
    if not protocols(a) or a.info.get("primary") != b.info.get("primary"):
        return False
    same = protocols(a) == protocols(b) or guidances.alike(a, b)
    return same and not measures_apart([a, b])


def measures_apart(runs: list[Run]) -> list[str]:
    """What runs measured by other versions or weights, in words: 'version of fd: 1 and 2'.

    Of what a run has not measured, or written before this was recorded, it says nothing.
    """
    known: dict[str, dict[str, str]] = {}
    for run in runs:
        for name, value in _measures(run).items():
            known.setdefault(name, {})[json.dumps(value)] = _short(value)
    apart = {name: each.values() for name, each in known.items() if len(each) > 1}
    return [f"{name}: {' and '.join(values)}" for name, values in apart.items()]


def _measures(run: Run) -> dict[str, Any]:
    found = run.info.get("measures")
    return found if isinstance(found, dict) else {}


def rules_apart(runs: list[Run]) -> list[str]:
    """The rules of evaluation and versions of metrics that differ between runs, in words."""
    rules = []
    for run in runs:
        rules.append({**guidances.rules_of(run), "primary metrics": run.info.get("primary")})
    keys = sorted(set().union(*rules))
    found = []
    for key in keys:
        values = list(dict.fromkeys(_short(each.get(key)) for each in rules))
        if len(values) > 1:
            found.append(f"{key}: {' and '.join(values)}")
    return found + measures_apart(runs)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def merge(runs: list[Run]) -> Run:
    """Put the rows of several runs together; a student's name in two runs gets the run's name.

    Teachers and controls of one protocol are the same in every run: each of their cells stays once;
    those of several guidances are told apart by it.
    """
    students = _in_several(runs)
    shorts = _short_names([run.name for run in runs])
    joined, others, notes = guidances.joined(runs)
    renamed = [
        rename(run, {name: f"{name} ({short})" for name in students} | names)
        for run, short, names in zip(joined, shorts, others, strict=True)
    ]
    first = renamed[0]
    info = dict(first.info)
    for key in ("variants", "failures", "warnings", "references", "elsewhere"):
        items: list[Any] = []
        for run in renamed:
            items += [item for item in run.info.get(key) or [] if item not in items]
        info[key] = items
    info["measures"] = {name: value for run in renamed for name, value in _measures(run).items()}
    info |= _declared(runs)
    titles = {str(run.info.get("title") or run.name) for run in runs}
    # The parts of one experiment have its title.
    info["title"] = titles.pop() if len(titles) == 1 else " + ".join(run.name for run in runs)
    info["notes"] = notes
    info["warnings"] = info["warnings"] + [
        f"{name}: its samples have other indices or labels and are not shown beside the others"
        for name in _apart([(run.name, run.grid) for run in runs])
    ]
    results = normalise(_once(_joint([run.results for run in renamed])))
    return Run(
        " + ".join(run.name for run in runs),
        results,
        _joint([run.curves for run in renamed]),
        merge_grids([run.grid for run in renamed]),
        info,
        _joint([run.breakdown for run in renamed]),
        merge_selections([run.selections for run in renamed]),
        tuple(runs),
    )


def _declared(runs: list[Run]) -> dict[str, Any]:
    """What of a joint page's facts is of its declaration: the last that any of the runs made."""
    families = [run.info.get("family") or {} for run in runs]
    about = [run.info.get("provenance") or {} for run in runs]
    made = [i for i, family in enumerate(families) if family.get("leader") or family.get("entries")]
    last = max(made, key=lambda i: str(about[i].get("started") or ""), default=0)
    holds = [i for i in made if _same_declaration(families[i], families[last])]
    # A run written before these were recorded leaves the whole untold.
    since = [str(about[i].get("declared") or "") for i in holds]
    trained = [each.get("first_training") for each in about]
    told = all(since) and None not in trained
    return {
        "family": families[last],
        "declared_after": [runs[i].name for i in made if i not in holds],
        "provenance": {
            **about[0],
            "declared": min(since, default=""),
            "first_training": min(filter(None, trained), default="") if told else None,
        },
    }


def _same_declaration(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all((a.get(key) or None) == (b.get(key) or None) for key in ("leader", "entries"))


def _in_several(runs: list[Run]) -> list[str]:
    """The students whose names are in more than one run."""
    rows = pd.concat([run.results.assign(which=i) for i, run in enumerate(runs)])
    found = rows[rows["role"] == "student"].groupby("variant")["which"].nunique()
    return list(found[found > 1].index)


def _short_names(names: list[str]) -> list[str]:
    """Runs' names from the word on in which they differ; whole where none tells them apart."""
    shared = commonprefix(names)
    for cut in range(len(shared), 0, -1):
        ends = shared[cut - 1] in SEPARATORS or all(n[cut:][:1] in SEPARATORS for n in names)
        rests = [name[cut:].strip(SEPARATORS) for name in names]
        if ends and all(rest[:1].isalpha() for rest in rests) and len({*rests}) == len({*names}):
            return rests
    return names


def _once(results: pd.DataFrame) -> pd.DataFrame:
    """Every cell of teachers and controls once: the first run's that has values."""
    cell = ["variant", "sampler", "nfe"]
    others = results[results["role"] != "student"]
    others = others.assign(
        cell=list(zip(*(others[name].astype(str) for name in cell), strict=True))
    )
    good = others["status"] == Status.OK
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
    if "elsewhere" in info:
        info["elsewhere"] = _renamed(info["elsewhere"], names)
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
