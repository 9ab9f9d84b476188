"""Samples that share noise: one sheet for each NFE, the teacher first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from piflow_reports.data.run import Grid
from piflow_reports.format.styles import Style
from piflow_reports.pictures.images import DETAILS, Detail
from piflow_reports.pictures.points import PANEL, common_limits
from piflow_reports.pictures.rows import SHOWN, Strip, panel_of, series_of, strip_of


@dataclass(frozen=True)
class Sheet:
    """The grid of one NFE, the teacher first."""

    nfe: int | None
    strips: list[Strip]


def sheets(
    grid: Grid | None, looks: dict[str, Style], order: list[str], detail: Detail = DETAILS[0]
) -> dict[str, Any] | None:
    """The page's grids: kind ('images' or 'points'), labels, and one sheet per NFE."""
    rows = [row for row in grid.rows if len(grid.arrays[row["key"]])] if grid else []
    if grid is None or not rows:
        return None
    points = all(grid.arrays[row["key"]].ndim == 2 for row in rows)
    if not points:
        rows = [row for row in rows if grid.arrays[row["key"]].ndim in (3, 4)]
    limits = common_limits([grid.arrays[row["key"]] for row in rows]) if points else None
    place = {name: i for i, name in enumerate(order)}
    # The control and the converged teacher stand above every NFE; the teacher leads its own.
    above = [row for row in rows if row.get("role") == "control" or row.get("nfe") is None]
    kept = {id(row) for row in above}
    nfes = sorted({int(row["nfe"]) for row in rows if id(row) not in kept})
    students = {int(r["nfe"]) for r in rows if r.get("role") == "student" and r.get("nfe")}
    made = {}
    for row in rows:
        array = grid.arrays[row["key"]]
        what = f"{len(array)} {'points' if points else 'samples'}"
        if limits is None:
            made[id(row)] = strip_of(row, array, what, detail)
        else:
            made[id(row)] = panel_of(row, array, what, limits, looks)
    result = []
    shown: list[int | None] = [n for n in nfes if n in students or not students]
    for nfe in shown or [None]:
        own = [row for row in rows if id(row) not in kept and int(row["nfe"]) == nfe]
        own.sort(
            key=lambda r: (
                r.get("role") != "teacher",
                place.get(series_of(r), len(place)),
                series_of(r),
                r.get("train_seed") or 0,
            )
        )
        result.append(Sheet(nfe, [made[id(row)] for row in above + own]))
    first = grid.arrays[rows[0]["key"]]
    top = made[id(rows[0])]
    gap = 0 if points else top.pixel
    tile = PANEL if points else (top.width + gap) // len(first) - gap
    labels = [] if points else [str(v) for v in grid.labels[: len(first)]]
    return {
        "kind": "points" if points else "images",
        "labels": labels,
        "classes": sorted(set(labels), key=lambda v: (len(v), v)) if len(set(labels)) > 1 else [],
        "index": [] if points else [int(i) for i in grid.index[: len(first)]],
        "count": len(first),
        "shown": len(first) if points else min(SHOWN, len(first)),
        "tile": tile,
        "gap": gap,
        "window": min(SHOWN, len(first)) * (tile + gap) - gap,
        "reduced": not points and max(first.shape[1:3]) > detail.largest,
        "lossy": not points and max(first.shape[1:3]) > detail.exact,
        "labelled": len(set(labels)) > 1,
        "word": "prompt" if grid.labels.dtype.kind == "U" else "label",
        "sheets": result,
    }
