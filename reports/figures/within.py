"""Diversity within each class or prompt, beside the converged teacher's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.series import CEILING
from piflow_reports.figures.base import Figure, spec
from piflow_reports.figures.ratio_rows import Ratios, cells, draw
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

from piflow_bench.evaluation.inference.ratios import ratio_interval

LISTED = 20
"""Classes up to which all are in the table; of more, the least diverse of each variant."""
Cell = dict[str, Any]


def within(
    breakdown: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, Style],
    order: list[str],
    prefix: str,
) -> list[Figure]:
    """The ratio to the teacher of every class and of their geometric mean, a row per series."""
    if "kind" not in breakdown:
        return []
    rows = breakdown[breakdown["kind"] == "within"]
    tops = _cells(rows[rows["variant"] == CEILING])
    found = []
    for nfe in nfes:
        here = rows[rows["nfe"] == nfe]
        ratios = {}
        for series in (s for s in order if s in looks):
            own = _cells(here[here["series"] == series])
            groups = [g for g in own if g in tops and own[g]["value"] > 0 < tops[g]["value"]]
            if groups:
                each = {g: ratio_interval(own[g], tops[g]) for g in groups}
                parts = ([side[g] for g in groups] for side in (own, tops))
                whole = ratio_interval(*(_geometric_mean(cells) for cells in parts))
                ratios[series] = (whole, each)
        if ratios:
            found.append(_figure(ratios, nfe, looks, f"{prefix}within-{nfe}"))
    return found


def _cells(rows: pd.DataFrame) -> dict[str, Cell]:
    """What a ratio needs to know of every class: its value, by train seed, and replicates."""
    found: dict[str, Cell] = {}
    for group, own in rows.groupby("group", sort=False):
        own = own[np.isfinite(own["value"])]
        seeds = own["train_seed"].astype(float).fillna(-1.0)
        if not len(own):
            continue
        left = {s: list(map(float, r)) for s, r in zip(seeds, own["replicates"], strict=True)}
        alike = len({len(each) for each in left.values()}) == 1
        found[str(group)] = {
            "metric": str(own["metric"].iloc[0]),
            "value": float(own["value"].mean()),
            "by_seed": dict(zip(seeds, own["value"].astype(float), strict=True)),
            "seed_replicates": left,
            "replicates": np.mean(list(left.values()), axis=0).tolist() if alike else [],
        }
    return found


def _geometric_mean(cells: list[Cell]) -> Cell:
    """One cell for all classes: a block that is left out leaves all of them at once."""
    seeds = set.intersection(*(set(cell["by_seed"]) for cell in cells))
    by_seed = {s: _mean([cell["by_seed"][s] for cell in cells]) for s in sorted(seeds)}
    left = {s: _means([cell["seed_replicates"][s] for cell in cells]) for s in sorted(seeds)}
    return {
        "metric": cells[0]["metric"],
        "value": _mean([cell["value"] for cell in cells]),
        "by_seed": by_seed,
        "seed_replicates": left,
        "replicates": _means([cell["replicates"] for cell in cells]),
    }


def _mean(values: list[float]) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.exp(np.mean(np.log(values))))


def _means(lists: list[list[float]]) -> list[float]:
    """Of lists of one length, place by place; nothing where they differ."""
    if len({len(each) for each in lists}) != 1:
        return []
    return [_mean(list(each)) for each in zip(*lists, strict=True)]


def _figure(ratios: Ratios, nfe: int, looks: dict[str, Style], key: str) -> Figure:
    figure, height = draw(ratios, looks, "Ratio to the teacher")
    most = max(len(each) for _, each in ratios.values())
    table = []
    for series, (whole, each) in ratios.items():
        table.append([series, "all, geometric mean", *cells(whole)])
        lowest = sorted(each, key=lambda g: each[g].value)[: LISTED // 2]
        table += [[series, g, *cells(each[g])] for g in (each if most <= LISTED else lowest)]
    few = "" if most <= LISTED else f" The table has the {LISTED // 2} least diverse of each."
    return Figure(
        key,
        f"Diversity within classes at {nfe} NFE",
        "Mean pairwise distance between samples of one class or prompt over the converged "
        "teacher's, from the same noise. Large marks: geometric mean of all, bars 95 % intervals; "
        "small: each. More than 1 can be noise: look at precision." + few,
        spec(figure),
        height,
        ["Variant", "Class or prompt", "Ratio", "95 % interval"],
        table,
        words.metric("pairwise_distance").meaning,
    )
