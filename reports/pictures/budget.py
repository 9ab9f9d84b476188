"""All pictures of a page within a budget of bytes: the best detail that keeps to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from piflow_reports.data.run import Grid, Selections
from piflow_reports.format.styles import Style
from piflow_reports.pictures.images import DETAILS
from piflow_reports.pictures.samples import sheets
from piflow_reports.pictures.selections import Rule, picked

BUDGET = 7.5e6  # Bytes of all pictures as text, so that a page of ten variants stays below 15 MB.


def within_budget(
    grid: Grid | None,
    selections: Selections | None,
    looks: dict[str, Style],
    order: list[str],
    nfes: list[int],
    taken: int = 0,
) -> tuple[dict[str, Any] | None, list[tuple[int, list[Rule]]]]:
    """Grids and picked samples, reduced until all pictures together keep within the budget.

    ``taken``: bytes of it that other pictures have.
    """
    grids, rules = None, list[tuple[int, list[Rule]]]()
    for detail in DETAILS:
        grids = sheets(grid, looks, order, detail)
        smaller = replace(detail, largest=detail.largest * 3 // 4)
        rules = picked(selections, nfes, order, smaller)
        strips = [s for sheet in (grids or {"sheets": []})["sheets"] for s in sheet.strips]
        strips += [p.strip for _, each in rules for rule in each for p in rule.rows]
        strips += [p.beside for _, each in rules for r in each for p in r.rows if p.beside]
        if sum(len(s.uri) for s in strips) <= BUDGET - taken:
            break
    return grids, rules
