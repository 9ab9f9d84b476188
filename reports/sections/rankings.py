"""The rankings per NFE as plain records: columns, groups that may be compared, cells."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
from piflow_reports.data.series import Primary, measured
from piflow_reports.format import names as words

TRAINED_ON = "its method is trained on these features"
Measure = tuple[str, str, str, str]  # question, extractor, metric, protocol


class Column(NamedTuple):
    """A measure, with its header."""

    measure: Measure
    label: str
    note: str
    higher: bool | None
    primary: bool


@dataclass
class Cell:
    """A value as shown; ``hole`` is the reason where there is none."""

    value: float = math.nan
    text: str = words.MISSING
    span: str = ""
    bold: bool = False
    mark: str = ""
    """better | worse: told apart from the leader, or from the best entry."""
    hole: str = ""
    note: str = ""
    low: float = math.nan
    high: float = math.nan
    by_seed: dict[int, tuple[str, float]] = field(default_factory=dict)
    """The value of every train seed, as shown; empty for fewer than two."""


@dataclass
class Row:
    """One series at one NFE."""

    series: str
    method: str
    role: str
    seeds: int
    cells: list[Cell]
    family: str = ""
    trained: str = ""
    """The NFEs that its training serves, and its share of a budget."""


@dataclass
class Group:
    """Rows that may be compared with each other: a track, the teachers, or the controls."""

    title: str
    kind: str
    rows: list[Row]
    track: str = ""


@dataclass
class Ranking:
    """One table."""

    nfe: int
    title: str
    columns: list[Column]
    groups: list[Group] = field(default_factory=list)
    n: list[int] = field(default_factory=list)
    """Samples behind the students' numbers, every count once."""
    told_from: str = ""
    """From whom those with marks are told apart, in words; empty where nothing is tested."""

    @property
    def told_trained(self) -> bool:
        """Whether what the students were trained for differs, and needs a column."""
        return len({row.trained for group in self.groups for row in group.rows} - {""}) > 1


Marks = dict[tuple[str, int, str, str, str], str]
"""(track, nfe, question, metric, series) -> better | worse, told apart from ``told_from``."""


def columns(summary: pd.DataFrame, primary: Primary) -> dict[str, list[Column]]:
    """Columns per table: the primary question and extractor first, then the other pairs."""
    rows = measured(summary)
    rows = rows[~rows["metric"].str.endswith("_std")]
    keys = ["question", "extractor", "metric", "protocol"]
    found = rows.drop_duplicates(keys)
    several = found.groupby(keys[:3])["protocol"].nunique().to_dict()
    order = [primary.quality, primary.diversity, *words.LABELS]
    estimators: dict[Measure, set[str]] = {}
    for measure, estimator in zip(_measures(rows), rows["estimator"], strict=True):
        estimators.setdefault(measure, set()).add(str(estimator))
    tables: dict[str, list[Column]] = {}
    main = (primary.question, primary.extractor)
    for record in found.to_dict("records"):
        question, extractor, name, protocol = (str(record[key]) for key in keys)
        is_main = question == main[0] and extractor in (main[1], "samples")
        about = [words.QUESTIONS.get(question, question), extractor]
        title = "" if is_main else " · ".join(filter(None, about)) or "Other"
        note = [words.metric(name).meaning, words.QUESTION_NOTES.get(question, "")]
        how = sorted(estimators[(question, extractor, name, protocol)] - {""})
        note += [f"estimator: {' and '.join(how)}"] if how else []
        label = words.metric(name).label
        if several[(question, extractor, name)] > 1:
            label += f" ({protocol[:6]})"
            note.append(f"protocol {protocol}")
        first = is_main and extractor == main[1] and name in (primary.quality, primary.diversity)
        column = Column(
            (question, extractor, name, protocol),
            label,
            " ".join(n for n in note if n),
            record["higher"],
            first,
        )
        tables.setdefault(title, []).append(column)
    place = {name: i for i, name in reversed(list(enumerate(order)))}
    for group in tables.values():
        group.sort(key=lambda c: (place.get(c.measure[2], len(place)), c.measure))
    return dict(sorted(tables.items()))


def _measures(rows: pd.DataFrame) -> list[Measure]:
    """The measure of every row."""
    names = ("question", "extractor", "metric", "protocol")
    return list(zip(*(rows[name].astype(str).tolist() for name in names), strict=True))


def rankings(
    summary: pd.DataFrame,
    nfes: list[int],
    order: list[str],
    primary: Primary,
    marks: Marks,
) -> dict[int, list[Ranking]]:
    """Per NFE the main table and those of the other questions and extractors."""
    tables = columns(summary, primary)
    records: list[Record] = summary.to_dict("records")
    values = _by_place(records)
    only_controls = set(measured(summary)["role"]) == {"control"}
    result: dict[int, list[Ranking]] = {}
    for nfe in nfes:
        result[nfe] = []
        here = [
            row
            for row in records
            if row["role"] == "control" or row["nfe"] == nfe or pd.isna(row["nfe"])
        ]
        places = _places(here)
        for title, chosen in tables.items():
            groups = _groups(here, nfe, order, chosen, values, places)
            ranking = Ranking(nfe, title, chosen, groups, told_from=primary.told_from)
            for group in ranking.groups:
                _embolden(group, ranking, marks)
                if chosen and chosen[0].higher is not None:
                    sign = -1 if chosen[0].higher else 1
                    group.rows.sort(key=lambda r: _sortable(r.cells[0].value, sign))
            ranking.n = _sample_counts(summary, nfe, chosen)
            if only_controls or any(group.kind != "control" for group in ranking.groups):
                result[nfe].append(ranking)
    return result


def _sample_counts(summary: pd.DataFrame, nfe: int, chosen: list[Column]) -> list[int]:
    rows = measured(summary)
    rows = rows[(rows["role"] == "student") & (rows["nfe"] == nfe) & (rows["n"] > 0)]
    measures = {c.measure for c in chosen}
    both = zip(_measures(rows), rows["n"], strict=True)
    return sorted({int(n) for measure, n in both if measure in measures})


def _sortable(value: float, sign: int) -> tuple[bool, float]:
    return (not words.finite(value), sign * value if words.finite(value) else 0.0)


Record = dict[Any, Any]
"""A row of a summary."""


def _by_place(records: Sequence[Record]) -> dict[tuple[str, float, Measure], Record]:
    found = {}
    for row in records:
        measure = (row["question"], row["extractor"], row["metric"], row["protocol"])
        nfe = -1.0 if row["role"] == "control" or not words.finite(row["nfe"]) else row["nfe"]
        found[(row["series"], float(nfe), measure)] = row
    return found


def _groups(
    here: Sequence[Record],
    nfe: int,
    order: list[str],
    chosen: list[Column],
    values: dict[tuple[str, float, Measure], Record],
    places: Mapping[Measure, int],
) -> list[Group]:
    """Tracks apart, teachers and controls below; a control stands at every NFE."""
    students = [row for row in here if row["role"] == "student"]
    parts = [
        (
            words.TRACKS.get(t, t.capitalize()),
            "student",
            t,
            [row for row in students if row["track"] == t],
        )
        for t in sorted({row["track"] for row in students}, key=words.track_order)
    ]
    for title, kind in (
        ("Teacher with few steps (baseline)", "teacher"),
        ("Controls (not ranked)", "control"),
    ):
        parts.append((title, kind, "", [row for row in here if row["role"] == kind]))
    groups = []
    for title, kind, track, rows in parts:
        by_series: dict[str, list[Record]] = {}
        for row in rows:
            by_series.setdefault(row["series"], []).append(row)
        shown = []
        for name in sorted(by_series, key=order.index):
            own = by_series[name]
            at = -1.0 if kind == "control" else float(nfe)
            cells = [
                _cell(values.get((name, at, c.measure)), own, c, places.get(c.measure, 3))
                for c in chosen
            ]
            if all(c.text == words.MISSING and not c.hole for c in cells):
                continue
            seeds = max(int(row["seeds"]) for row in own)
            method, family = (str(own[0][key]) for key in ("method", "family"))
            trained = words.trained_for(str(own[0]["serves"]), own[0]["shares"])
            shown.append(Row(name, method, kind, seeds, cells, family, trained))
        if shown:
            groups.append(Group(title, kind, shown, track))
    return groups


def _places(records: Sequence[Record]) -> dict[Measure, int]:
    """Places after the point of every measure's column."""
    found: dict[Measure, tuple[list[float], list[float]]] = {}
    for row in records:
        measure = (row["question"], row["extractor"], row["metric"], row["protocol"])
        known, widths = found.setdefault(measure, ([], []))
        known.append(row["value"])
        widths.append((row["high"] - row["low"]) / 2)
    return {measure: words.decimals(*both) for measure, both in found.items()}


def _cell(found: Record | None, own: Sequence[Record], column: Column, places: int) -> Cell:
    """A cell of the table; a series that failed in this question shows the reason as a hole."""
    if found is not None and words.finite(found["value"]):
        note = ""
        if found["failed"]:
            note = f"{found['failed']} of {found['failed'] + found['seeds']} seeds failed: "
            note += found["reason"]
        value, low, high = (float(found[key]) for key in ("value", "low", "high"))
        text, span = words.fixed(value, places), words.span(low, high, places)
        each = found["by_seed"] if found["seeds"] else {}
        by_seed = {int(seed): (words.fixed(v, places), float(v)) for seed, v in each.items()}
        return Cell(value, text, span, note=note, low=low, high=high, by_seed=by_seed)
    question, extractor = column.measure[:2]
    failed = [row for row in own if row["failed"] > 0 and not words.finite(row["value"])]
    same = [row for row in failed if row["question"] in (question, "")]
    exact = [row for row in same if row["extractor"] in (extractor, "")]
    # A sampling failure is reported once per question; its other measures are holes as well.
    for rows in (exact, same):
        if rows and (rows is exact or not any(words.finite(row["value"]) for row in own)):
            return Cell(hole="; ".join(sorted({row["reason"] for row in rows})) or "failed")
    return Cell()


def mark_trained_on(
    ranked: Mapping[int, Sequence[Ranking]], features: Mapping[str, Collection[str]]
) -> None:
    """Say beside a value, in place, that its method was trained on the features it is measured in.

    Args:
        ranked: the tables.
        features: extractors by series.
    """
    for ranking in (table for several in ranked.values() for table in several):
        for row in (row for group in ranking.groups for row in group.rows):
            for cell, column in zip(row.cells, ranking.columns, strict=True):
                if column.measure[1] in features.get(row.series, ()) and not cell.hole:
                    cell.note = "; ".join(filter(None, [cell.note, TRAINED_ON]))


def _embolden(group: Group, ranking: Ranking, marks: Marks) -> None:
    """Bold is the best value of a column, whatever chance made of it; marks are what was tested."""
    if group.kind == "control":
        return
    for i, column in enumerate(ranking.columns):
        rows = [row for row in group.rows if words.finite(row.cells[i].value)]
        if column.higher is None or len(rows) < 2:
            continue
        best = (max if column.higher else min)(row.cells[i].value for row in rows)
        for row in rows:
            row.cells[i].bold = row.cells[i].value == best
            if column.primary:
                question, _, name, _ = column.measure
                key = (group.track, ranking.nfe, question, name, row.series)
                row.cells[i].mark = marks.get(key, "")
