"""What tells scored sets apart: the differences of every two, and the best in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from piflow_reports.format import names as words
from piflow_reports.sections.rankings import Cell, Column

from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.evaluation.tables import DIFFERENCES

FILE = "differences.parquet"
NAMED = 3
"""Most sets that a sentence sets against the best."""


@dataclass(frozen=True)
class Claim:
    """Who is best in a metric."""

    metric: str
    meaning: str
    text: str


def read(folder: Path) -> pd.DataFrame:
    """Every two sets of a folder apart; empty where one set was scored.

    Raises:
        UserError: if the table cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return pd.DataFrame(columns=DIFFERENCES)
    try:
        found = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({line}); score the samples again") from error
    lacking = [name for name in DIFFERENCES if name not in found]
    if lacking:
        raise UserError(f"{path}: has no column '{lacking[0]}'; score the samples again")
    return found


def table(apart: pd.DataFrame, columns: Sequence[Column]) -> list[tuple[str, str, list[Cell]]]:
    """Of every two sets, ``set`` minus ``against``: a cell for each column of the scores.

    Bold is a difference whose interval, for one comparison, leaves out nil.
    """
    filled = [_column(apart[apart["metric"] == c.measure[2]]) for c in columns]
    pairs = dict.fromkeys(zip(apart["set"], apart["against"], strict=True))
    return [(a, b, [cells.get((a, b), Cell()) for cells in filled]) for a, b in pairs]


def _column(rows: pd.DataFrame) -> dict[tuple[str, str], Cell]:
    places = words.decimals(rows["difference"], (rows["ci_high"] - rows["ci_low"]) / 2)
    return {
        (row["set"], row["against"]): Cell(
            row["difference"],
            words.fixed(row["difference"], places),
            words.span(row["ci_low"], row["ci_high"], places),
            bold=bool(row["ci_low"] > 0 or row["ci_high"] < 0),
            low=row["ci_low"],
            high=row["ci_high"],
        )
        for row in rows.to_dict("records")
    }


def partners(apart: pd.DataFrame) -> str:
    """By what samples are partners, in words."""
    said = {
        "by name": "Samples of one name are partners: what both sets share cancels.",
        "by place": "Samples of one place are partners: what both sets share cancels.",
        "no": "The samples are no partners: the errors of both sets add.",
    }
    kinds = sorted(set(apart["paired"]))
    return said.get(kinds[0], "") if len(kinds) == 1 else "Some sets' samples are partners."


def claims(
    columns: Sequence[Column], rows: Sequence[tuple[str, list[Cell]]], apart: pd.DataFrame
) -> list[Claim]:
    """Who is best in the first metric of quality and the first of diversity, and by how much."""
    known = all_metrics()
    roles = [known[c.measure[2]].role if c.measure[2] in known else "" for c in columns]
    found = []
    for role in ("quality", "diversity"):
        place = next((i for i, r in enumerate(roles) if r == role), None)
        if place is None:
            continue
        column = columns[place]
        cells = [(name, row[place]) for name, row in rows if words.finite(row[place].value)]
        if len(cells) < 2 or column.higher is None:
            continue
        cells.sort(key=lambda pair: pair[1].value, reverse=column.higher)
        (name, best), *others = cells
        value = f"{best.text} {best.span}".strip()
        end = "highest" if column.higher else "lowest"
        text = f"{words.isolated(name)} has the {end}, {value}"
        gaps = _gaps(apart[apart["metric"] == column.measure[2]], name, [o for o, _ in others])
        if gaps:
            better = "higher" if column.higher else "lower"
            rest = len(others) - len(gaps)
            more = [words.count(rest, "other")] if rest else []
            text += f"; {better} than {words.joined([*gaps, *more])}"
        else:
            near = [words.isolated(other) for other, cell in others if cell.bold]
            text += _overlap(near)
        found.append(Claim(column.label, column.note, f"{text}."))
    return found


def _gaps(rows: pd.DataFrame, best: str, others: Sequence[str]) -> list[str]:
    """How far the nearest others are behind, with the intervals of the differences."""
    known = {(row["set"], row["against"]): row for row in rows.to_dict("records")}
    shown = [known.get((best, other)) or known.get((other, best)) for other in others[:NAMED]]
    found = [row for row in shown if row is not None]
    if len(found) < len(shown):
        return []
    places = words.decimals(
        [row["difference"] for row in found],
        [(row["ci_high"] - row["ci_low"]) / 2 for row in found],
    )
    said = []
    for row, other in zip(found, others, strict=False):
        ends = (row["ci_low"], row["ci_high"])
        low, high = (-ends[1], -ends[0]) if row["difference"] < 0 else ends
        gap = f"{words.fixed(abs(row['difference']), places)} {words.span(low, high, places)}"
        said.append(f"{words.isolated(other)} by {gap.strip()}")
    return said


def _overlap(near: list[str]) -> str:
    if not near:
        return ""
    listed = words.joined([*near[:4], *([f"{len(near) - 4} others"] if len(near) > 4 else [])])
    many = len(near) > 1
    return f"; the interval{'s' if many else ''} of {listed} overlap{'' if many else 's'}"
