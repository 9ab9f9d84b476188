"""The page of scores: sets of samples that were given to `evaluate`, ranked by one protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from piflow_reports.data import series as frames
from piflow_reports.export import tables as export
from piflow_reports.figures import base as plots
from piflow_reports.format import html
from piflow_reports.format import names as words
from piflow_reports.pictures import scores as scores_pictures
from piflow_reports.scores import differences as scores_differences
from piflow_reports.sections.facts import listed
from piflow_reports.sections.rankings import Cell, Column

from piflow_bench.errors import UserError
from piflow_bench.evaluation.inference.cells import better_higher
from piflow_bench.evaluation.measured import WHOLE
from piflow_bench.evaluation.protocols import refuse_mixture
from piflow_bench.evaluation.tables import COLUMNS, DIFFERENCES
from piflow_bench.evaluation.uncertainty import percent

FILE = "scores.parquet"
RULES = {
    "images": "Images",
    "extractor": "Extractor",
    "precision": "Precision of the network",
    "samples": "Samples scored",
    "reference": "Digest of the reference",
    "classes": "Classes of the samples",
}
"""What the page calls the rules that are no settings of metrics."""
BEFORE = {"warnings": "", "taken": "", "confidence": 0.95}
"""Columns that older scores lack, and what held then."""


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


def build_scores(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page of some folders' scores, and ``exports/`` beside it.

    Args:
        folders: each with a ``scores.parquet`` as ``evaluate`` writes it.
        out: the page; ``report.html`` in the only folder, or ``scores.html`` beside the first. Of
            several n the largest has this page, and the others ``report-n1000.html`` beside it.

    Returns:
        The page's path.

    Raises:
        UserError: for a folder that cannot be read, and for sets of several protocols.
    """
    places = [Path(folder) for folder in folders]
    scores = read(places)
    alone = places[0] / "report.html" if len(places) == 1 else places[0].parent / "scores.html"
    page = Path(out) if out else alone
    apart, shown_pictures = differences(places), pictures(places)
    *smaller, scores = by_count(scores)
    for part in smaller:  # Scores of different n do not share a table.
        n = json.loads(part["rules"].iloc[0])["samples"]
        other = page.with_name(f"{page.stem}-n{n}{page.suffix}")
        kept = frames.in_range(part, "ci_low", "ci_high")
        export.write_atomic(other, render(kept, apart, shown_pictures))
    shown = frames.in_range(scores, "ci_low", "ci_high")
    export.write_atomic(page, render(shown, apart, shown_pictures))
    exports = page.parent / "exports"
    flat = scores.drop(columns=["rules", "warnings", "provenance"]).to_csv(
        index=False, lineterminator="\n"
    )
    export.write_atomic(exports / "scores.csv", flat)
    columns, rows = table(shown)
    export.write_atomic(exports / "scores.md", markdown(columns, rows, _interval(scores)))
    export.write_atomic(exports / "scores.tex", latex(columns, rows))
    return page


def read(folders: Sequence[Path]) -> pd.DataFrame:
    """All scores, with the set's name in column ``set``; refused if their protocols differ."""
    names = _names(folders)
    tables = []
    for name, folder in zip(names, folders, strict=True):
        try:
            found = pd.read_parquet(folder / FILE)
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"{folder}: {FILE} cannot be read ({line})") from error
        for later, value in BEFORE.items():
            if later not in found:
                found[later] = value
        missing = [column for column in COLUMNS if column not in found]
        if missing:
            raise UserError(
                f"{folder}: {FILE} has no column '{missing[0]}'; score the samples again"
            )
        if "set" in found:
            found["set"] = [_called(each, name, len(folders)) for each in found["set"]]
        else:
            found["set"] = name
        tables.append(found.assign(provenance=_provenance(folder)))
    scores = pd.concat(tables, ignore_index=True)
    several = any(len(by_count(each)) > 1 for each in tables)
    for part in by_count(scores) if several else [scores]:
        pairs = zip(part["protocol_hash"], part["rules"], strict=True)
        refuse_mixture({key: json.loads(rules) for key, rules in pairs}, words.joined(names))
    _refuse_confidences(scores)
    return scores


def _called(name: str, folder: str, folders: int) -> str:
    """What the page calls one of several sets of a folder."""
    return name if folders == 1 else f"{folder}/{name}"


def differences(folders: Sequence[Path]) -> pd.DataFrame:
    """Every two sets that were scored together, by the page's names."""
    found = []
    for name, folder in zip(_names(folders), folders, strict=True):
        apart = scores_differences.read(folder)
        found.append(
            apart.assign(
                **{
                    side: [_called(str(each), name, len(folders)) for each in apart[side]]
                    for side in ("set", "against")
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def pictures(folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Pictures of all sets by the page's names, and of what they were scored against."""
    found: dict[str, np.ndarray] = {}
    for name, folder in zip(_names(folders), folders, strict=True):
        own = scores_pictures.read(folder)
        sets = {each for each in own if each not in scores_pictures.BESIDE}
        for each, rows in own.items():
            called = _called(each, name, len(folders)) if each in sets else each
            found.setdefault(name if each == scores_pictures.ALONE else called, rows)
    return found


def by_count(scores: pd.DataFrame) -> list[pd.DataFrame]:
    """The scores of each number of samples that was asked for, ascending."""
    counts = [json.loads(rules)["samples"] for rules in scores["rules"]]
    return [part for _, part in scores.groupby(counts)]


def _refuse_confidences(scores: pd.DataFrame) -> None:
    """UserError where intervals of two confidences meet: overlaps of such say nothing."""
    firsts = scores[scores["ci_low"].notna()].drop_duplicates("confidence")
    if len(firsts) > 1:
        (a, b), (p, q) = firsts["set"][:2], map(percent, firsts["confidence"][:2])
        raise UserError(
            f"intervals of {p} ({a}) and of {q} ({b}) cannot be compared; score all sets with one "
            "confidence="
        )


def _interval(scores: pd.DataFrame) -> str:
    """What the sets' intervals are called."""
    known = scores.loc[scores["ci_low"].notna(), "confidence"]
    return f"{percent(known.iloc[0] if len(known) else scores['confidence'].iloc[0])} interval"


def _provenance(folder: Path) -> str:
    """The JSON that the verb wrote beside its scores; scores of Python's own have none."""
    path = folder / "provenance.json"
    try:
        text = path.read_text("utf-8") if path.is_file() else "{}"
        if not isinstance(json.loads(text), dict):
            raise ValueError("no facts")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return text


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with as much of their paths as tells them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{folders[0]}: named twice")


def render(
    scores: pd.DataFrame,
    apart: pd.DataFrame | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> str:
    """The page's text.

    ``apart``: every two sets that were scored together; ``pictures``: some of each, by name.
    """
    columns, rows = table(scores)
    if apart is None:
        apart = pd.DataFrame(columns=DIFFERENCES)
    apart = apart[apart["n"].isin(scores["n"])]
    shown = figures(scores, [name for name, _ in rows]) if len(rows) > 1 else []
    first = scores.iloc[0]
    several = len(rows) > 1
    return html.render(
        "scores.html.j2",
        f"Scores of {len(rows)} sets" if several else f"Scores of {rows[0][0]}",
        bool(shown),
        question=question(scores, [name for name, _ in rows]),
        claims=scores_differences.claims(columns, rows, apart),
        pairs=scores_differences.table(apart, columns),
        first=str(apart["against"].iloc[0]) if len(apart) else "",
        partners=scores_differences.partners(apart) if len(apart) else "",
        strips=scores_pictures.strips(pictures or {}, [name for name, _ in rows]),
        columns=columns,
        rows=rows,
        metrics=[] if several else details(scores),
        interval=_interval(scores),
        split=any(measure.estimator for measure in _measures(scores)),
        figures=shown,
        classes=class_tables(scores),
        sets=set_facts(scores),
        alerts=alerts(scores),
        origins=origins(scores),
        facts=facts(first),
        rules=rules(json.loads(first["rules"])),
        glossary=[(m.label, m.meaning) for m in map(words.metric, _metrics(scores)) if m.meaning],
    )


def _metrics(scores: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(scores.loc[scores["group"] == WHOLE, "metric"]))


def _measures(scores: pd.DataFrame) -> list[Measure]:
    """The metrics of whole sets, each estimator by itself where sets differ in it."""
    found: list[Measure] = []
    whole = scores[scores["group"] == WHOLE]
    for name in _metrics(scores):
        how = list(dict.fromkeys(whole.loc[whole["metric"] == name, "estimator"]))
        found += [Measure(name, each) for each in how] if len(how) > 1 else [Measure(name)]
    return found


def table(scores: pd.DataFrame) -> tuple[list[Column], list[tuple[str, list[Cell]]]]:
    """A column for each measure, a row for each set; the best by the first one comes first."""
    whole = scores[scores["group"] == WHOLE]
    return _cells(whole, _measures(scores), "set")


def _cells(
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


def question(scores: pd.DataFrame, names: Sequence[str]) -> str:
    """What the page answers, in a line."""
    reference = next((str(r) for r in scores["reference"] if r), "")
    if len(names) > 1:
        end = "is closest to the reference" if reference else "is the most varied"
        return f"Which of these {len(names)} sets of samples {end}?"
    close = "How close are these samples to the reference, and how varied?"
    return close if reference else "How varied are these samples?"


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
        columns, cells = _cells(rows, measures, "group", sort=False)
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


def figures(scores: pd.DataFrame, order: Sequence[str]) -> list[plots.Figure]:
    """A figure for each measure: every set's value with its interval, in the order given."""
    whole = scores[scores["group"] == WHOLE]
    shown = []
    for number, measure in enumerate(_measures(scores)):
        name, rows = measure.metric, measure.rows(whole)
        rows = rows.assign(place=[-order.index(each) for each in rows["set"]])
        if rows["ci_low"].isna().all():
            continue
        summary = rows.assign(low=rows["ci_low"], high=rows["ci_high"])
        height = 90 + 34 * len(rows)
        figure = plots.blank(plots.axis_title(name, better_higher(name)), "", height)
        figure.add_scatter(
            x=plots.numbers(rows["value"]),
            y=rows["place"].tolist(),
            error_x=plots.error_bars(summary),
            mode="markers",
            marker={"size": 9, "color": "#2a86c0"},
            text=[
                f"{plots.heading(row['set'])}<br>" + " ".join(plots.value_and_span(row))
                for row in summary.to_dict("records")
            ],
            hoverinfo="text",
        )
        figure.update_yaxes(
            tickvals=[-i for i in range(len(order))],
            ticktext=[plots.safe(words.short(each)) for each in order],
            range=[0.5 - len(order), 0.5],
            showgrid=False,
        )
        label, meaning = measure.label, words.metric(name).meaning
        table = [[row["set"], *plots.number_cells(row)] for row in summary.to_dict("records")]
        heads = ["Set", label, _interval(scores)]
        text = plots.spec(figure)
        shown.append(plots.Figure(f"s{number}", label, meaning, text, height, heads, table))
    return shown


def facts(first: pd.Series) -> list[tuple[str, str]]:
    """What all sets share."""
    return [
        ("Protocol", f"{first['protocol']} ({first['protocol_hash']})"),
        ("Extractor", first["extractor"]),
        ("Reference", first["reference"] or "none"),
    ]


def set_facts(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Where every set came from."""
    firsts = scores.drop_duplicates("set").to_dict("records")
    return [
        {
            "name": each["set"],
            "n": str(each["n"]),
            **{k: each[k] for k in ("samples", "taken", "classes")},
        }
        for each in firsts
    ]


def alerts(scores: pd.DataFrame) -> list[dict[str, str]]:
    """What weakens the scores of a set."""
    firsts = scores.drop_duplicates("set").to_dict("records")
    return [
        {"where": each["set"], "text": text}
        for each in firsts
        for text in str(each["warnings"] or "").splitlines()
    ]


def origins(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """What made the scores of each set: the command, and with what."""
    found = []
    # Sets of one call were made together.
    for each in scores.drop_duplicates("provenance").to_dict("records"):
        known = json.loads(each["provenance"])
        command = str(known.pop("command", ""))
        if known:
            rows = listed(known)
            found.append({"name": each["set"], "command": command, "rows": rows})
    return found


def rules(resolved: dict[str, Any]) -> list[tuple[str, str]]:
    """The protocol's rules: those on images first, then the settings of the metrics."""
    ordered = [*(key for key in RULES if key in resolved), *sorted(set(resolved) - set(RULES))]
    return [(RULES.get(key, key), _plain(resolved[key])) for key in ordered]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else str(value)


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
