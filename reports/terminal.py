"""The primary metrics and who is told apart, for a terminal: what the page says, in short."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from piflow_reports import frames, inputs, verdicts, words
from rich.console import Console
from rich.table import Table

ORDER = {"teacher": 0, "student": 1, "control": 2}


def print_results(console: Console, folder: Path) -> None:
    """Print a run's primary metrics of every variant at every NFE, then its verdicts."""
    run = inputs.read(folder)
    primary = frames.primary(run.info, run.results)
    summary = frames.summarise(frames.final(run.results))
    metrics = list(dict.fromkeys((primary.quality, primary.diversity)))
    rows = summary[
        (summary["question"] == primary.question)
        & (summary["extractor"] == primary.extractor)
        & summary["metric"].isin(metrics)
    ]
    out = Table(title=f"{run.name}: {primary.question}, {primary.extractor}")
    out.add_column("variant", overflow="fold")
    out.add_column("NFE", justify="right")
    for name in metrics:
        out.add_column(f"{name} [95 % interval]", justify="right")
    out.add_column("seeds", justify="right")
    groups = rows.groupby(["series", "nfe", "role"], dropna=False, sort=False)
    for (series, nfe, _), own in sorted(groups, key=lambda g: _place(*g[0])):
        at = f"{nfe:.0f}" if words.finite(nfe) else ""
        values = [_text(own[own["metric"] == name]) for name in metrics]
        out.add_row(str(series), at, *values, str(int(own["seeds"].max()) or ""))
    console.print(out, markup=False)
    beside = frames.with_one_budget(summary)
    pairs, note = verdicts.comparisons(beside, primary, rules=frames.rules(run.results))
    said = verdicts.verdicts(beside, pairs, primary)
    for text in [verdicts.level_note(pairs, primary) or note]:
        console.print(text, highlight=False, markup=False)
    for verdict in said:
        console.print(" ".join(verdict.sentences), highlight=False, markup=False)


def _place(series: str, nfe: float, role: str) -> tuple[int, float, str]:
    return ORDER.get(role, len(ORDER)), nfe if words.finite(nfe) else 0.0, series


def _text(rows: pd.DataFrame) -> str:
    if not len(rows):
        return ""
    row = rows.iloc[0]
    if not words.finite(row["value"]):
        return "failed"
    if not words.finite(row["low"]):
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
