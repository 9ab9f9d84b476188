"""What changed from one run to another in the primary metrics, and whether beyond noise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports import frames, inputs, words
from rich.console import Console
from rich.table import Table

from piflow_bench.errors import UserError
from piflow_bench.evaluation.uncertainty import holm

LEVEL = 0.05
CELL = ["role", "track", "series", "nfe", "question", "extractor", "metric"]
"""What names a cell in both runs."""


@dataclass(frozen=True)
class Change:
    """One cell in both runs."""

    series: str
    nfe: int
    metric: str
    old: float
    new: float
    difference: float
    """New less old."""
    low: float
    high: float
    p: float
    """Corrected by Holm over all cells."""
    seeds: int
    """Common train seeds; below two the interval holds the noise of sampling alone."""
    verdict: str
    """better | worse | differs | equal | unknown | lost (no value any more)."""


def changes(old: inputs.Run, new: inputs.Run) -> list[Change]:
    """Paired differences of all students and teachers, Holm-corrected; the worst first.

    Raises:
        UserError: if the runs were evaluated by other rules, naming them, or share no cell.
    """
    _same_rules(old, new)
    primary = frames.primary(new.info, new.results)
    both = [_rows(run, primary) for run in (old, new)]
    joined = both[0].merge(both[1], on=CELL, how="left", suffixes=("_old", "_new"))
    if joined["value_new"].notna().sum() == 0:
        raise UserError(f"report --diff: {old.name} and {new.name} share no cell with a value")
    found = []
    for row in joined.to_dict("records"):
        sides = [{k: row[f"{k}_{s}"] for k in ("value", "seeds", "by_seed", "replicates")}
                 for s in ("new", "old")]  # fmt: skip
        lost = not words.finite(row["value_new"])
        found.append((row, None if lost else frames.difference(*map(pd.Series, sides))))
    p_values = holm(np.array([np.nan if d is None else d.p for _, d in found], dtype=float))
    listed = [_change(row, d, float(p)) for (row, d), p in zip(found, p_values, strict=True)]
    order = ("lost", "worse", "differs", "unknown", "better", "equal")
    return sorted(listed, key=lambda c: (order.index(c.verdict), c.nfe, c.series, c.metric))


def _rows(run: inputs.Run, primary: frames.Primary) -> pd.DataFrame:
    summary = frames.measured(frames.summarise(frames.final(run.results)))
    keep = summary["metric"].isin([primary.quality, primary.diversity])
    keep &= (summary["question"] == primary.question) & (summary["role"] != "control")
    keep &= summary["extractor"] == primary.extractor
    return summary[keep]


def _change(row: dict[Any, Any], difference: Any, p: float) -> Change:
    higher = row["higher_old"]
    value = row["value_new"] - row["value_old"]
    if not words.finite(row["value_new"]):
        verdict = "lost"
    elif value == 0:
        verdict = "equal"
    elif difference is None or not words.finite(p):
        verdict = "unknown"
    elif p >= LEVEL:
        verdict = "equal"
    elif higher is None:
        verdict = "differs"
    else:
        verdict = "better" if (value > 0) == bool(higher) else "worse"
    common = 0
    if verdict != "lost" and row["seeds_old"] and row["seeds_new"]:
        common = len(set(row["by_seed_old"]) & set(row["by_seed_new"]))
    nan = float("nan")
    low, high = (difference.low, difference.high) if difference else (nan, nan)
    return Change(
        row["series"], int(row["nfe"]), row["metric"], row["value_old"], row["value_new"],
        value, low, high, p, common, verdict,
    )  # fmt: skip


def _same_rules(old: inputs.Run, new: inputs.Run) -> None:
    if inputs.protocols(old) & inputs.protocols(new):
        return
    rules = []
    for run in (old, new):
        texts = run.results["rules"] if "rules" in run.results else pd.Series(dtype=str)
        text = next((t for t in texts if t), "{}")
        rules.append(json.loads(text))
    keys = sorted(set(rules[0]) | set(rules[1]))
    apart = [k for k in keys if rules[0].get(k) != rules[1].get(k)]
    named = [f"{k}: {rules[0].get(k)} and {rules[1].get(k)}" for k in apart]
    raise UserError(
        f"report --diff: {old.name} and {new.name} were evaluated by other rules"
        + (f" ({'; '.join(named)[:400]})" if named else "")
        + "; only runs of one protocol are compared"
    )


def print_changes(old: Path, new: Path) -> bool:
    """Print the changes from one run's folder to another's; whether nothing is worse or lost."""
    found = changes(inputs.read(old), inputs.read(new))
    console = Console()
    table = Table(title=f"from {old} to {new}")
    names = ("variant", "NFE", "metric", "old", "new", "difference [95 % interval]", "p", "")
    for name in names:
        table.add_column(name, justify="left" if name in ("variant", "metric", "") else "right")
    for c in found:
        places = words.decimals([c.difference], [(c.high - c.low) / 2])
        gap = f"{words.fixed(c.difference, places)} {words.span(c.low, c.high, places)}".strip()
        p = f"{c.p:.3f}" if words.finite(c.p) else words.MISSING
        values = [words.figures(v, 4) if words.finite(v) else words.MISSING for v in (c.old, c.new)]
        label = words.metric(c.metric).label
        gap = words.MISSING if c.verdict == "lost" else gap
        table.add_row(c.series, str(c.nfe), label, *values, gap, p, c.verdict)
    console.print(table, markup=False)
    if any(c.seeds < 2 for c in found):
        console.print(
            "With fewer than two common train seeds the intervals hold the noise of sampling, not "
            "that of training again.",
            highlight=False,
        )
    bad = [c for c in found if c.verdict in ("worse", "lost")]
    counts = {
        v: sum(c.verdict == v for c in found) for v in dict.fromkeys(c.verdict for c in found)
    }
    console.print(", ".join(f"{n} {v}" for v, n in counts.items()), highlight=False)
    return not bad
