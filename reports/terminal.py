"""A run's end on a terminal: at each NFE the best first, in the page's numbers and sentences."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from piflow_reports import summary
from piflow_reports.format import names as words
from piflow_reports.sections import rankings as tables
from piflow_reports.sections import trials
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from piflow_bench.tuning.choice import Trials

TITLES = {"teacher": "Teacher, few steps", "control": "Not ranked"}
"""Titles of groups that are too long for a narrow column."""
SIGNS = {"better": "▲", "worse": "▼", "": " "}
SHORTEST = 40
"""Columns below which a text is not wrapped further."""


def print_results(console: Console, folder: Path) -> None:
    """Print a run's primary metrics and its verdicts, NFE by NFE."""
    found = summary.read(folder)
    _write(console, found.title)
    if found.trials:
        console.print()
        console.print(_chosen(found.trials))
        _write(console, found.note)
        return
    for nfe, ranking in found.rankings.items():
        console.print()
        console.print(_table(ranking), soft_wrap=True)
        for text in found.sentences(nfe):
            _write(console, text)
    console.print()
    _write(console, found.note)


def _table(ranking: tables.Ranking) -> Table:
    """The primary columns: value and mark, then the interval, which no line breaks."""
    shown = [i for i, column in enumerate(ranking.columns) if column.primary]
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    out.add_column(f"{ranking.nfe} NFE", overflow="fold")
    for i in shown:
        column = ranking.columns[i]
        out.add_column(
            f"{column.label} {words.arrow(column.higher)}", justify="right", no_wrap=True
        )
        out.add_column("95 %", style="dim", no_wrap=True)
    for group in ranking.groups:
        out.add_row(Text(TITLES.get(group.kind, group.title), style="italic dim"))
        for row in group.rows:
            out.add_row(Text(f"  {row.series}"), *_texts([row.cells[i] for i in shown]))
    return out


def _chosen(tried: Trials) -> Table:
    """What trials chose."""
    metric = f"{words.metric(tried.metric).label} {words.arrow(tried.higher)}"
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    out.add_column("variant", overflow="fold")
    out.add_column("NFE", no_wrap=True)
    for title in (f"published {metric}", "best"):
        out.add_column(title, justify="right", no_wrap=True)
    out.add_column("chosen", overflow="fold")
    for row in trials.rows(tried):
        out.add_row(Text(row.variant), row.at, row.published, row.best, Text(row.settings))
    return out


def _texts(cells: list[tables.Cell]) -> Iterator[Text]:
    for cell in cells:
        text = "failed" if cell.hole else cell.text
        yield Text(text + SIGNS[cell.mark], style="bold" if cell.bold else "")
        yield Text(cell.span)


def _write(console: Console, text: str) -> None:
    """A paragraph whose lines break between words, never within an interval."""
    held = re.sub(r"\[[^\]]*\]", lambda found: found.group().replace(" ", "\0"), text)
    lines = textwrap.wrap(
        held, max(console.width, SHORTEST), break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        console.print(Text(line.replace("\0", " ")), soft_wrap=True)
