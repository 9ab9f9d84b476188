"""What changed from one run to another in the primary metrics, and whether beyond noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data import merge
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.data.run import Run
from piflow_reports.format import names as words
from rich.console import Console
from rich.table import Table

from piflow_bench.errors import UserError
from piflow_bench.evaluation.inference.compare import LEVEL, changed
from piflow_bench.evaluation.uncertainty import holm

CELL = ["role", "track", "variant", "setting", "nfe", "question", "extractor", "metric"]
"""What names a cell in both runs; a series is named by the settings that a run happens to have."""
NEEDED = ("value", "seeds", "by_seed", "seed_replicates", "replicates")
"""What a difference is computed from."""


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
    """better | worse | differs | equal | not told apart | unknown | lost (no value any more)."""


def changes(old: Run, new: Run) -> list[Change]:
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
        sides = [{k: row[f"{k}_{s}"] for k in NEEDED}
                 for s in ("new", "old")]  # fmt: skip
        known = words.finite(row["value_new"]) and not _other_seeds(row)
        found.append((row, changed(*sides) if known else None))
    p_values = holm(np.array([np.nan if d is None else d.p for _, d in found], dtype=float))
    listed = [_change(row, d, float(p)) for (row, d), p in zip(found, p_values, strict=True)]
    order = ("lost", "worse", "differs", "unknown", "better", "not told apart", "equal")
    return sorted(listed, key=lambda c: (order.index(c.verdict), c.nfe, c.series, c.metric))


def _rows(run: Run, primary: frames.Primary) -> pd.DataFrame:
    summary = frames.measured(frames.summarise(frames.final(run.results)))
    keep = summary["metric"].isin([primary.quality, primary.diversity])
    keep &= (summary["question"] == primary.question) & (summary["role"] != "control")
    keep &= summary["extractor"] == primary.extractor
    return summary[keep]


def _common(row: dict[Any, Any]) -> int:
    """Train seeds that both runs have."""
    return len(set(row["by_seed_old"]) & set(row["by_seed_new"])) if row["seeds_new"] else 0


def _other_seeds(row: dict[Any, Any]) -> bool:
    """Whether the noise of training would pass for a change: the runs trained with other seeds."""
    return max(row["seeds_old"], row["seeds_new"]) > _common(row) < 2


def _change(row: dict[Any, Any], difference: Any, p: float) -> Change:
    higher = row["higher_old"]
    # On common seeds, where there is an interval: the values are means over all of each run's.
    value = difference.difference if difference else row["value_new"] - row["value_old"]
    if not words.finite(row["value_new"]):
        verdict = "lost"
    elif value == 0:
        verdict = "equal"
    elif difference is None or not words.finite(p):
        verdict = "unknown"
    elif p >= LEVEL:
        verdict = "not told apart"
    elif higher is None:
        verdict = "differs"
    else:
        verdict = "better" if (value > 0) == bool(higher) else "worse"
    common = 0 if verdict == "lost" else _common(row)
    nan = float("nan")
    low, high = (difference.low, difference.high) if difference else (nan, nan)
    return Change(
        row["series_old"], int(row["nfe"]), row["metric"], row["value_old"], row["value_new"],
        value, low, high, p, common, verdict,
    )  # fmt: skip


def _same_rules(old: Run, new: Run) -> None:
    if merge.protocols(old) & merge.protocols(new) and not merge.measures_apart([old, new]):
        return
    named = merge.rules_apart([old, new])
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
        table.add_column(
            name, justify="left" if name in ("variant", "metric", "") else "right", overflow="fold"
        )
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
