"""Distance to the ceiling: every series beside the converged teacher."""

from __future__ import annotations

from typing import Any

import pandas as pd
from piflow_reports.data.series import CEILING, Primary, measured, select
from piflow_reports.format import names as words
from piflow_reports.sections.rankings import Cell, Row

from piflow_bench.evaluation.inference.ratios import FRECHET, NEAR, ratio_interval
from piflow_bench.evaluation.uncertainty import Interval


def ceiling(
    summary: pd.DataFrame, nfes: list[int], order: list[str], primary: Primary
) -> dict[str, Any] | None:
    """Ratios to the converged teacher in the imitation distance and in its recall."""
    question = "imitation" if "imitation" in set(summary["question"]) else primary.question
    parts = []
    for name in dict.fromkeys((primary.quality, primary.diversity)):
        rows = measured(select(summary, question, name, primary.extractor))
        tops = rows[rows["variant"] == CEILING]
        if len(tops) == 1 and float(tops["value"].iloc[0]) > 0:
            parts.append((name, rows[rows["variant"] != CEILING], tops.iloc[0]))
    if not parts or not any((rows["role"] == "student").any() for _, rows, _ in parts):
        return None
    ratios = {
        (name, index): ratio_interval(row, top)
        for name, rows, top in parts
        for index, row in zip(rows.index, rows.to_dict("records"), strict=True)
    }
    places = {
        name: words.decimals(
            [found.value for (of, _), found in ratios.items() if of == name],
            [(found.high - found.low) / 2 for (of, _), found in ratios.items() if of == name],
        )
        for name, *_ in parts
    }
    body: list[Row] = []
    for series in order:
        cells = []
        role = ""
        for name, rows, top in parts:
            own = rows[(rows["series"] == series) & (rows["role"] != "control")]
            role = str(own["role"].iloc[0]) if len(own) else role
            for nfe in nfes:
                here = own[(own["nfe"] == nfe) & (own["protocol"] == top["protocol"])]
                found = ratios[name, here.index[0]] if len(here) else None
                cells.append(_ratio(found, name, places[name]) if found else Cell())
        if any(words.finite(cell.value) for cell in cells):
            body.append(Row(series, "", role, 0, cells))
    heads = [
        {
            "label": words.metric(name).label,
            "meaning": words.metric(name).meaning,
            "arrow": words.arrow(top["higher"]),
            "ceiling": words.figures(float(top["value"]), 3),
        }
        for name, _, top in parts
    ]
    return {"heads": heads, "nfes": nfes, "rows": body}


def _ratio(found: Interval, name: str, places: int) -> Cell:
    span = words.span(found.low, found.high, places)
    note = "" if span else found.method
    if span and name in FRECHET and found.value < NEAR:
        note = (
            f"below {NEAR:g} times the ceiling: intervals about 1.5 times too wide, tests nearly "
            "powerless"
        )
    return Cell(found.value, "×" + words.fixed(found.value, places), span, note=note)
