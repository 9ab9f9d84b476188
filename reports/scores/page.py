"""The page of scores: sets of samples that were given to `evaluate`, ranked by one protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data import series as frames
from piflow_reports.format import html
from piflow_reports.format import names as words
from piflow_reports.pictures import scores as scores_pictures
from piflow_reports.scores import differences as scores_differences
from piflow_reports.scores.figures import figures
from piflow_reports.scores.read import by_count, differences, pictures, read
from piflow_reports.scores.tables import (
    class_tables,
    details,
    interval_of,
    latex,
    markdown,
    measures_of,
    metrics_of,
    table,
)
from piflow_reports.sections.facts import listed

from piflow_bench.evaluation.tables import DIFFERENCES
from piflow_bench.files.atomic import write_text

RULES = {
    "images": "Images",
    "extractor": "Extractor",
    "precision": "Precision of the network",
    "samples": "Samples scored",
    "reference": "Digest of the reference",
    "classes": "Classes of the samples",
}
"""What the page calls the rules that are no settings of metrics."""


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
        write_text(other, render(kept, apart, shown_pictures))
    shown = frames.in_range(scores, "ci_low", "ci_high")
    write_text(page, render(shown, apart, shown_pictures))
    exports = page.parent / "exports"
    flat = scores.drop(columns=["rules", "warnings", "provenance"]).to_csv(
        index=False, lineterminator="\n"
    )
    write_text(exports / "scores.csv", flat)
    columns, rows = table(shown)
    write_text(exports / "scores.md", markdown(columns, rows, interval_of(scores)))
    write_text(exports / "scores.tex", latex(columns, rows))
    return page


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
        interval=interval_of(scores),
        split=any(measure.estimator for measure in measures_of(scores)),
        figures=shown,
        classes=class_tables(scores),
        sets=set_facts(scores),
        alerts=alerts(scores),
        origins=origins(scores),
        facts=facts(first),
        rules=rules(json.loads(first["rules"])),
        glossary=[(m.label, m.meaning) for m in map(words.metric, metrics_of(scores)) if m.meaning],
    )


def question(scores: pd.DataFrame, names: Sequence[str]) -> str:
    """What the page answers, in a line."""
    reference = next((str(r) for r in scores["reference"] if r), "")
    if len(names) > 1:
        end = "is closest to the reference" if reference else "is the most varied"
        return f"Which of these {len(names)} sets of samples {end}?"
    close = "How close are these samples to the reference, and how varied?"
    return close if reference else "How varied are these samples?"


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
