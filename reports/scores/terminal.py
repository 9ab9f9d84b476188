"""Scores on a terminal: the page's numbers, in columns that no line breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from piflow_reports.data import series as frames
from piflow_reports.format import names as words
from piflow_reports.scores.read import FILE, by_count
from piflow_reports.sections.rankings import Cell
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from piflow_bench.evaluation.inference.cells import better_higher
from piflow_bench.evaluation.measured import WHOLE
from piflow_bench.evaluation.uncertainty import percent

NARROWEST = 12
"""Letters of a set's name that are shown in any case."""


def print_scores(console: Console, folder: Path) -> None:
    """Print the scores that `evaluate` wrote: a set's metrics, or each metric's sets, best first.

    What was scored of how many, and what weakens the scores, comes after them.
    """
    scores = frames.in_range(pd.read_parquet(folder / FILE), "ci_low", "ci_high")
    parts = by_count(scores)
    for part in parts:
        first = part.iloc[0]
        title = f"{first['protocol']} ({first['protocol_hash']}), {first['extractor']}"
        _say(console, title)
        several = "set" in part and part["set"].nunique() > 1
        if len(parts) > 1 or several:
            _say(console, f"n = {_counts(first)}")
        console.print(_sets(part, console.width) if several else _metrics(part))
        for text in _notes(part):
            _say(console, text)


def _counts(row: pd.Series) -> str:
    reference = f" / {row['n_reference']}" if pd.notna(row["n_reference"]) else ""
    return f"{row['n']}{reference}"


def _table(columns: dict[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name, side in columns.items():
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    return table


def _label(metric: str) -> str:
    return f"{metric} {words.arrow(better_higher(metric))}".rstrip()


def _metrics(scores: pd.DataFrame) -> Table:
    """One set: a row for each metric, or for each metric of each class."""
    interval = f"{percent(scores['confidence'].iloc[0])} interval"
    by_class = scores["group"].nunique() > 1
    sides = {"metric": "left"} | ({"class": "left"} if by_class else {})
    table = _table(sides | {"value": "right", interval: "left", "n": "right"})
    for _, row in scores.iterrows():
        cell = _cell(row, scores[scores["metric"] == row["metric"]])
        of = [Text(words.short(row["group"]))] if by_class else []
        table.add_row(Text(_label(row["metric"])), *of, cell.text, Text(cell.span), _counts(row))
    return table


def _sets(scores: pd.DataFrame, width: int) -> Table:
    """Several sets: under each metric a row for each, with what tells it from the first given."""
    names = list(dict.fromkeys(scores["set"]))
    known = list(scores["against"].dropna())
    first = known[0] if known else names[0]
    interval = f"{percent(scores['confidence'].iloc[0])} interval"
    rows = []
    for (metric, group), part in scores.groupby(["metric", "group"], sort=False):
        of_class = "" if group == WHOLE else f", class {group.removeprefix('class ')}"
        heading = _label(metric) + of_class
        cells = []
        for _, row in part.iterrows():
            cell, apart = _cell(row, part), ""
            if words.finite(row["difference"]):
                places = words.decimals(
                    part["difference"], (part["difference_high"] - part["difference_low"]) / 2
                )
                bounds = words.span(row["difference_low"], row["difference_high"], places)
                apart = f"{words.fixed(row['difference'], places)} {bounds}".rstrip()
            cells.append((row["set"], cell.text, cell.span, apart))
        rows.append((heading, cells))

    def longest(column: int, least: int) -> int:
        return max(least, *(len(cell[column]) for _, cells in rows for cell in cells)) + 2

    apart_width = longest(3, 18)
    room = max(width - 2 - longest(1, 5) - longest(2, len(interval)) - apart_width, NARROWEST + 2)
    shown = dict(zip(names, words.shortened(names, room - 2), strict=True))
    against = f"minus {words.short(shown[first], apart_width - 8)}"
    table = _table({"": "left", "value": "right", interval: "left", against: "left"})
    for heading, cells in rows:
        table.add_row(Text(words.short(heading, room), style="bold"))
        for name, text, span, apart in cells:
            table.add_row(Text(f"  {shown[name]}"), text, Text(span), Text(apart))
    return table


def _cell(row: pd.Series, alike: pd.DataFrame) -> Cell:
    """A value and its interval, with the digits that the intervals of its like support."""
    places = words.decimals(alike["value"], (alike["ci_high"] - alike["ci_low"]) / 2)
    span = words.span(row["ci_low"], row["ci_high"], places)
    text = words.fixed(row["value"], places) if words.finite(row["value"]) else "none"
    return Cell(row["value"], text, span)


def _notes(scores: pd.DataFrame) -> Iterator[str]:
    """What was taken, pairing, and warnings; those of all sets once."""
    several = "set" in scores
    firsts = scores.drop_duplicates("set") if several else scores.head(1)
    names = list(firsts["set"]) if several else [""]
    for taken in dict.fromkeys(text for text in firsts["taken"] if text):
        of = [name for name, text in zip(names, firsts["taken"], strict=True) if text == taken]
        yield f"samples{_of(of, names)}: {taken}"
    if several and len(names) > 1:
        pairs = {how for how in scores["paired"].dropna() if how}
        how = {"by name": "partners have one name", "by place": "partners have one place",
               "no": "the samples are no partners"}  # fmt: skip
        listed = ", or ".join(how[each] for each in how if each in pairs)
        yield f"differences: of the samples that were scored, for one comparison each; {listed}"
    told: dict[str, list[str]] = {}
    for name, warnings in zip(names, firsts["warnings"], strict=True):
        for text in str(warnings or "").splitlines():
            told.setdefault(text, []).append(name)
    for text, of in told.items():
        yield f"warning{_of(of, names)}: {text}"


def _of(some: list[str], names: list[str]) -> str:
    return "" if len(some) == len(names) else f" ({words.joined(some)})"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)
