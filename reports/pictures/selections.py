"""Samples that were picked by stated rules, and what belongs beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from piflow_reports.data.run import Selections
from piflow_reports.pictures.images import DETAILS, Detail
from piflow_reports.pictures.rows import Strip, series_of, strip_of

RULES = {
    "best": "Best",
    "worst": "Worst",
    "teacher": "Most different from the teacher",
    "training": "Nearest to a training image",
}
BESIDE = {"teacher": "teacher", "training": "training"}


@dataclass(frozen=True)
class Picked:
    """What a rule picked of one series: its samples, and what belongs beside them."""

    strip: Strip
    beside: Strip | None
    index: list[int]
    labels: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Rule:
    """A rule in words, and what it picked."""

    title: str
    text: str
    beside: str
    rows: list[Picked]


def picked(
    selections: Selections | None, nfes: list[int], order: list[str], detail: Detail = DETAILS[0]
) -> list[tuple[int, list[Rule]]]:
    """Per NFE, the rules with what each picked of every series; the converged teacher's first."""
    found = []
    place = {name: i for i, name in enumerate(order)}
    for nfe in nfes if selections else []:
        assert selections is not None
        cells = [c for c in selections.cells if c.get("nfe") == nfe or c.get("role") == "control"]
        cells = [c for c in cells if any(o.get("nfe") == nfe for o in cells)]
        cells.sort(key=lambda c: (c.get("role") != "control", place.get(series_of(c), len(place))))
        rules = []
        for rule, title in RULES.items():
            made = [
                _picked(cell, row, selections.arrays, detail)
                for cell in cells
                for row in cell.get("rows", [])
                if row["rule"] == rule
            ]
            texts = {r["text"] for c in cells for r in c.get("rows", []) if r["rule"] == rule}
            if made:
                text = "; ".join(sorted(texts))
                rules.append(Rule(title, text, BESIDE.get(rule, ""), made))
        if rules:
            found.append((nfe, rules))
    return found


def _picked(
    cell: dict[str, Any], row: dict[str, Any], arrays: dict[str, np.ndarray], detail: Detail
) -> Picked:
    name = f"{cell['key']}/{row['rule']}"
    title = RULES[row["rule"]].lower()
    own = strip_of(cell, arrays[name], f"{len(arrays[name])} samples ({title})", detail)
    other = arrays.get(f"{name}-beside")
    what = "the teacher's samples beside those" if row["rule"] == "teacher" else "training images"
    beside = None if other is None else strip_of(cell, other, what, detail)
    return Picked(own, beside, row["index"], row.get("label") or [], row["score"])


def memorised(selections: Selections | None, order: list[str]) -> list[dict[str, Any]]:
    """Share of each cell's samples that are nearer to a training image than held-out ones are."""
    place = {name: i for i, name in enumerate(order)}
    cells = [c for c in (selections.cells if selections else []) if "near_training" in c]
    cells.sort(key=lambda c: (place.get(series_of(c), len(place)), c.get("nfe") or 0))
    return [
        {"series": series_of(c), "nfe": c.get("nfe"), "share": f"{100 * c['near_training']:.1f} %",
         "n": c["looked_at"], "held_out": c["held_out"], "role": c.get("role", "")}
        for c in cells
    ]  # fmt: skip
