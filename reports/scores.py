"""The page of scores: sets of samples that were given to `evaluate`, ranked by one protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from piflow_reports import export, html, plots, styles, words
from piflow_reports.tables import Cell, Column

from piflow_bench.errors import UserError
from piflow_bench.evaluation.protocols import Rules, refuse_mixture
from piflow_bench.evaluation.score import COLUMNS, WHOLE

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
LONG = 30  # Rows of a table that scrolls by itself rather than fill the page.


def build_scores(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page of some folders' scores, and ``exports/`` beside it.

    Args:
        folders: each with a ``scores.parquet`` as ``evaluate`` writes it.
        out: the page; ``report.html`` in the only folder, or ``scores.html`` beside the first.

    Returns:
        The page's path.

    Raises:
        UserError: for a folder that cannot be read, and for sets of several protocols.
    """
    places = [Path(folder) for folder in folders]
    scores = read(places)
    if out:
        page = Path(out)
    elif len(places) == 1:
        page = places[0] / "report.html"
    else:
        page = places[0].resolve().parent / "scores.html"
    export.write_atomic(page, render(scores))
    beside = page.parent / "exports"
    flat = scores.drop(columns="rules").to_csv(index=False, lineterminator="\n")
    export.write_atomic(beside / "scores.csv", flat)
    columns, rows = table(scores)
    export.write_atomic(beside / "scores.md", markdown(columns, rows))
    export.write_atomic(beside / "scores.tex", latex(columns, rows))
    return page


def read(folders: Sequence[Path]) -> pd.DataFrame:
    """All scores, with the set's name in column ``set``; refused if their protocols differ."""
    names = _names(folders)
    read = [_read(folder).assign(set=name) for name, folder in zip(names, folders, strict=True)]
    scores = pd.concat(read, ignore_index=True)
    pairs = zip(scores["protocol_hash"], scores["rules"], strict=True)
    refuse_mixture({key: _rules(rules) for key, rules in pairs}, words.joined(names))
    return scores


def _read(folder: Path) -> pd.DataFrame:
    """One folder's scores, whole and with rules that can be read; UserError names the folder."""
    try:
        found = pd.read_parquet(folder / FILE)
        found.to_dict()  # Texts are decoded only when looked at.
    # Damage to the file's own description of its columns shows as any of these.
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: {FILE} cannot be read ({line})") from error
    again = "score the samples again"
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        raise UserError(f"{folder}: {FILE} has no column '{missing[0]}'; {again}")
    if not (found["group"] == WHOLE).any():
        raise UserError(f"{folder}: {FILE} has no score over all samples; {again}")
    for rules in found["rules"].unique():
        try:
            known = isinstance(_rules(rules), dict)
        except (ValueError, TypeError):
            known = False
        if not known:
            raise UserError(f"{folder}: {FILE} does not say by which rules; {again}")
    return found


def _rules(text: str) -> Rules:
    return json.loads(text)


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with as much of their paths as tells them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{folders[0]}: named twice")


def render(scores: pd.DataFrame) -> str:
    """The page's text."""
    columns, rows = table(scores)
    order = [name for name, _ in rows]
    several = len(order) > 1
    shown = figures(scores, order) if several else []
    metrics = map(words.metric, _metrics(scores))
    return html.render(
        "scores.html.j2",
        f"Scores of {len(order)} sets" if several else f"Scores of {order[0]}",
        bool(shown),
        columns=columns,
        rows=rows,
        metrics=[] if several else details(scores),
        figures=shown,
        classes=class_tables(scores, order),
        long=LONG,
        sets=set_facts(scores, order),
        facts=facts(scores),
        intervals=intervals(scores),
        rules=rules(_rules(scores["rules"].iloc[0])),
        # The table of one set says what its metrics mean.
        glossary=[(m.label, m.meaning) for m in metrics if m.meaning] if several else [],
    )


def _metrics(scores: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(scores.loc[scores["group"] == WHOLE, "metric"]))


def table(scores: pd.DataFrame) -> tuple[list[Column], list[tuple[str, list[Cell]]]]:
    """A column for each metric, a row for each set; the best by the first metric comes first."""
    whole = scores[scores["group"] == WHOLE]
    return _cells(whole, _metrics(scores), "set")


def _cells(
    scores: pd.DataFrame, metrics: Sequence[str], by: str, sort: bool = True
) -> tuple[list[Column], list[tuple[str, list[Cell]]]]:
    """Columns of ``metrics`` and rows of the values of column ``by``."""
    columns, filled = [], []
    for i, name in enumerate(metrics):
        higher = words.better_higher(name)
        meaning, label = words.metric(name).meaning, words.metric(name).label
        leads = sort and i == 0 and higher is not None
        columns.append(Column(("", "", name, ""), label, meaning, higher, leads))
        filled.append(_column(scores[scores["metric"] == name], by, higher))
    names = list(dict.fromkeys(scores[by]))
    rows = [(name, [column.get(name, Cell()) for column in filled]) for name in names]
    if columns and columns[0].primary:
        sign = -1 if columns[0].higher else 1
        key = [(sign * row[1][0].value, row) for row in rows]
        key.sort(key=lambda pair: pair[0] if words.finite(pair[0]) else math.inf)
        rows = [row for _, row in key]
    return columns, rows


def _column(rows: pd.DataFrame, by: str, higher: bool | None) -> dict[str, Cell]:
    """Cells of a metric; the best is bold where its interval lies clear of all others."""
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
        best.bold = all(_clear(best, cell, higher) for cell in known if cell is not best)
    return cells


def _clear(best: Cell, other: Cell, higher: bool) -> bool:
    """Whether two intervals are apart; unknown ones (NaN) are not."""
    return best.low > other.high if higher else best.high < other.low


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
                "higher": words.better_higher(row["metric"]),
                "value": words.fixed(row["value"], places),
                "span": words.span(row["ci_low"], row["ci_high"], places),
                "n": n,
                "interval": "" if row["interval"] == "none" else row["interval"],
            }
        )
    return found


def class_tables(scores: pd.DataFrame, order: Sequence[str]) -> list[dict[str, Any]]:
    """For every set that was scored by class: its classes, and the best and worst of them."""
    found = []
    for name in order:
        rows = scores[(scores["group"] != WHOLE) & (scores["set"] == name)]
        if not len(rows):
            continue
        metrics = list(dict.fromkeys(rows["metric"]))
        columns, cells = _cells(rows, metrics, "group", sort=False)
        for i, column in enumerate(columns):
            if column.higher is not None:
                _mark_ends([row[1][i] for row in cells], column.higher)
        counts = rows.drop_duplicates("group").set_index("group")["n"]
        of_n = Column(("", "", "n", ""), "n", "Samples of the class", None, False)
        cells = [(each, [Cell(counts[each], str(counts[each])), *row]) for each, row in cells]
        found.append({"name": name, "columns": [of_n, *columns], "rows": cells})
    return found


def _mark_ends(cells: list[Cell], higher: bool) -> None:
    known = sorted((c for c in cells if words.finite(c.value)), key=lambda c: c.value)
    for cell in cells:
        cell.bold = False
    if len(known) > 1 and known[0].value < known[-1].value:
        low, high = ("worst", "best") if higher else ("best", "worst")
        known[0].note, known[-1].note = low, high


def figures(scores: pd.DataFrame, order: Sequence[str]) -> list[plots.Figure]:
    """A figure for each metric that has intervals: every set's value, in the order given."""
    whole = scores[scores["group"] == WHOLE]
    shown = []
    for number, name in enumerate(_metrics(scores)):
        rows = whole[whole["metric"] == name].rename(columns={"ci_low": "low", "ci_high": "high"})
        if rows["low"].notna().any():
            shown.append(_figure(f"s{number}", name, rows, order))
    return shown


def _figure(key: str, name: str, rows: pd.DataFrame, order: Sequence[str]) -> plots.Figure:
    """Dots with intervals, one a set; the caption names the metric, so the axis need not."""
    higher = words.better_higher(name)
    hint = "" if higher is None else ("higher is better" if higher else "lower is better")
    height = 80 + 34 * len(order)
    figure = plots.blank(hint, "", height)
    figure.add_scatter(
        x=plots.numbers(rows["value"]),
        y=[order.index(each) for each in rows["set"]],
        error_x=plots.error_bars(rows),
        mode="markers",
        marker={"size": 9, "color": styles.COLOURS[0]},
        text=[
            f"<b>{plots.safe(row['set'])}</b><br>{words.figures(row['value'], 4)} "
            f"{plots.bracket(row)}".strip()
            for _, row in rows.iterrows()
        ],
        hovertemplate="%{text}<extra></extra>",
    )
    figure.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=[plots.safe(words.short(each, 18)) for each in order],
        range=[len(order) - 0.5, -0.5],
        showgrid=False,
        ticks="",
    )
    # Few labels that stay level also where the figure is narrow.
    figure.update_xaxes(nticks=5, tickangle=0)
    label, meaning = words.metric(name)
    return plots.Figure(key, label, meaning, plots.spec(figure), height)


def facts(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """What was scored against what, by which network and rules."""
    first, paths = scores.iloc[0], _distinct(scores["samples"])
    of_one = f"{paths[0]} (n\u00a0=\u00a0{first['n']})"
    reference = ", ".join(_distinct(scores["reference"])) or "none"
    counts = _distinct(scores["n_reference"].dropna())
    if counts:
        reference += f" (n\u00a0=\u00a0{', '.join(counts)})"
    return [
        ("Samples", of_one if scores["set"].nunique() == 1 else f"{scores['set'].nunique()} sets"),
        ("Reference", reference),
        ("Extractor", first["extractor"]),
        ("Protocol", f"{', '.join(_distinct(scores['protocol']))} ({first['protocol_hash']})"),
    ]


def _distinct(values: pd.Series) -> list[str]:
    return [str(value) for value in values.unique() if str(value)]


def intervals(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """Methods of the intervals, each with what it is an interval of and its metrics."""
    whole = scores[scores["group"] == WHOLE]
    found = []
    for (how, estimand), rows in whole.groupby(["interval", "estimand"], sort=False):
        labels = words.joined([words.metric(name).label for name in rows["metric"].unique()])
        if how == "none":
            found.append(("No interval", labels))
        else:
            found.append((how[:1].upper() + how[1:], f"of the {estimand}: {labels}"))
    return found


def set_facts(scores: pd.DataFrame, order: Sequence[str]) -> list[dict[str, str]]:
    """Where every set came from."""
    firsts = scores.drop_duplicates("set").set_index("set")
    return [
        {"name": name, **{key: str(firsts[key][name]) for key in ("samples", "n", "classes")}}
        for name in order
    ]


def rules(resolved: dict[str, Any]) -> list[tuple[str, str]]:
    """The protocol's rules: those on images first, then the settings of the metrics."""
    ordered = [*(key for key in RULES if key in resolved), *sorted(set(resolved) - set(RULES))]
    return [(RULES.get(key, key), _plain(resolved[key])) for key in ordered]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else str(value)


def markdown(columns: Sequence[Column], rows: Sequence[tuple[str, list[Cell]]]) -> str:
    """A GitHub table."""
    lines = [["Samples", *_heads(columns)], ["---", *["---:"] * len(columns)]]
    lines += [[export.md(name), *map(export.md_cell, cells)] for name, cells in rows]
    note = "Brackets: 95 %."
    if len(rows) > 1:
        note += " Bold: the best, if its interval overlaps no other (overlap is no test)."
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"


def latex(columns: Sequence[Column], rows: Sequence[tuple[str, list[Cell]]]) -> str:
    """A booktabs table."""
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["Samples", *map(export.tex, _heads(columns))]) + r" \\",
        "\\midrule",
        *(" & ".join([export.tex(name), *map(export.tex_cell, cells)]) + r" \\"
          for name, cells in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _heads(columns: Sequence[Column]) -> list[str]:
    return [f"{c.label} {words.arrow(c.higher)}".strip() for c in columns]
