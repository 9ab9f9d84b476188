"""Scores in columns of measures and rows of sets, the best marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from piflow_reports.export import tables as export
from piflow_reports.format import names as words
from piflow_reports.sections.rankings import Cell, Column

from piflow_bench.evaluation.inference.cells import better_higher
from piflow_bench.evaluation.measured import WHOLE
from piflow_bench.evaluation.uncertainty import percent


class Measure(NamedTuple):
    """What a column shows: a metric, by one estimator where sets differ in it."""

    metric: str
    estimator: str = ""

    @property
    def label(self) -> str:
        """The metric's label, with the estimator that tells columns apart."""
        label = words.metric(self.metric).label
        return f"{label}, {self.estimator}" if self.estimator else label

    def rows(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Its rows."""
        found = scores[scores["metric"] == self.metric]
        return found[found["estimator"] == self.estimator] if self.estimator else found


def interval_of(scores: pd.DataFrame) -> str:
    """What the sets' intervals are called."""
    known = scores.loc[scores["ci_low"].notna(), "confidence"]
    return f"{percent(known.iloc[0] if len(known) else scores['confidence'].iloc[0])} interval"


def metrics_of(scores: pd.DataFrame) -> list[str]:
    """The metrics of whole sets, in the order of the table."""
    return list(dict.fromkeys(scores.loc[scores["group"] == WHOLE, "metric"]))


def measures_of(scores: pd.DataFrame) -> list[Measure]:
    """The metrics of whole sets, each estimator by itself where sets differ in it."""
    found: list[Measure] = []
    whole = scores[scores["group"] == WHOLE]
    for name in metrics_of(scores):
        how = list(dict.fromkeys(whole.loc[whole["metric"] == name, "estimator"]))
        found += [Measure(name, each) for each in how] if len(how) > 1 else [Measure(name)]
    return found


def table(scores: pd.DataFrame) -> tuple[list[Column], list[tuple[str, list[Cell]]]]:
    """A column for each measure, a row for each set; the best by the first one comes first."""
    whole = scores[scores["group"] == WHOLE]
    return cells_of(whole, measures_of(scores), "set")


def cells_of(
    scores: pd.DataFrame, measures: Sequence[Measure], by: str, sort: bool = True
) -> tuple[list[Column], list[tuple[str, list[Cell]]]]:
    """Columns of ``measures`` and rows of the values of column ``by``."""
    columns, filled = [], []
    for i, measure in enumerate(measures):
        higher = better_higher(measure.metric)
        key = ("", "", measure.metric, measure.estimator)
        meaning = words.metric(measure.metric).meaning
        columns.append(Column(key, measure.label, meaning, higher, i == 0))
        filled.append(_column(measure.rows(scores), by, higher))
    names = list(dict.fromkeys(scores[by]))
    rows = [(name, [column.get(name, Cell()) for column in filled]) for name in names]
    if sort and columns and columns[0].higher is not None:
        sign = -1 if columns[0].higher else 1
        rows.sort(key=lambda row: sign * row[1][0].value if words.finite(row[1][0].value) else 9e99)
    return columns, rows


def _column(rows: pd.DataFrame, by: str, higher: bool | None) -> dict[str, Cell]:
    """Cells of a metric; bold are the best and what its interval overlaps."""
    half = (rows["ci_high"] - rows["ci_low"]) / 2
    places = words.decimals(rows["value"], half)
    cells = {
        row[by]: Cell(
            row["value"],
            words.fixed(row["value"], places),
            words.span(row["ci_low"], row["ci_high"], places),
            low=row["ci_low"],
            high=row["ci_high"],
        )
        for row in rows.to_dict("records")
    }
    known = [cell for cell in cells.values() if words.finite(cell.value)]
    if higher is not None and len(known) > 1:
        best = (max if higher else min)(known, key=lambda cell: cell.value)
        for cell in known:
            cell.bold = cell is best or (cell.low <= best.high and best.low <= cell.high)
    return cells


def details(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """One set's metrics, a row each."""
    whole = scores[scores["group"] == WHOLE]
    found = []
    for row in whole.to_dict("records"):
        places = words.decimals([row["value"]], [(row["ci_high"] - row["ci_low"]) / 2])
        n = str(row["n"])
        if pd.notna(row["n_reference"]):
            n += f" / {row['n_reference']}"
        label, meaning = words.metric(row["metric"])
        found.append(
            {
                "label": label,
                "meaning": meaning,
                "higher": better_higher(row["metric"]),
                "value": words.fixed(row["value"], places),
                "span": words.span(row["ci_low"], row["ci_high"], places),
                "n": n,
                "interval": "" if row["interval"] == "none" else row["interval"],
                "estimator": row["estimator"],
            }
        )
    return found


def class_tables(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """For every set that was scored by class: its classes, and the best and worst of them."""
    found = []
    by_class = scores[scores["group"] != WHOLE]
    for name, rows in by_class.groupby("set", sort=False):
        measures = [Measure(metric) for metric in dict.fromkeys(rows["metric"])]
        columns, cells = cells_of(rows, measures, "group", sort=False)
        for i, column in enumerate(columns):
            if column.higher is not None:
                _mark_ends([row[1][i] for row in cells], column.higher)
        found.append({"name": name, "columns": columns, "rows": cells})
    return found


def _mark_ends(cells: list[Cell], higher: bool) -> None:
    known = sorted((c for c in cells if words.finite(c.value)), key=lambda c: c.value)
    for cell in cells:
        cell.bold = False
    if len(known) > 1 and known[0].value < known[-1].value:
        low, high = ("worst", "best") if higher else ("best", "worst")
        known[0].note, known[-1].note = low, high


def markdown(
    columns: Sequence[Column], rows: Sequence[tuple[str, list[Cell]]], interval: str
) -> str:
    """A GitHub table; ``interval``: what the brackets hold."""
    lines = [["Samples", *map(export.md, _heads(columns))], ["---", *["---:"] * len(columns)]]
    lines += [[export.md(name), *map(export.md_cell, cells)] for name, cells in rows]
    note = f"Bold: the best, and all whose intervals overlap its (no test). Brackets: {interval}."
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"


def latex(columns: Sequence[Column], rows: Sequence[tuple[str, list[Cell]]]) -> str:
    """A booktabs table."""
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["Samples", *map(export.tex, _heads(columns))]) + r" \\",
        "\\midrule",
        *(export.tex_row([export.tex(name), *map(export.tex_cell, cells)]) for name, cells in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _heads(columns: Sequence[Column]) -> list[str]:
    return [f"{c.label} {words.arrow(c.higher)}".strip() for c in columns]
