"""Every two students apart: what was compared, as a table, and what was declared and tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from piflow_reports.data.series import (
    Primary,
    measured,
    select,
)
from piflow_reports.format import names as words

from piflow_bench.errors import UserError
from piflow_bench.evaluation.inference.compare import LEVEL, METHOD_SEEDS, compare
from piflow_bench.evaluation.uncertainty import t_quantile


def comparisons(
    summary: pd.DataFrame,
    primary: Primary,
    families: int = 1,
    rules: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, str]:
    """Comparisons of the students in the primary metrics, and a note where there are none.

    Every pair with its interval; those of the declared family are tested. A page of several
    ``families`` divides its 5 % of false reports among them. Teachers and controls stay out.
    ``rules``: those behind each protocol's hash, for what is said where protocols meet.
    """
    cells = summary[summary["role"] == "student"]
    parts = [
        select(cells, primary.question, name, primary.extractor)
        for name in dict.fromkeys((primary.quality, primary.diversity))
    ]
    chosen = pd.concat(parts)
    known = measured(chosen)
    if not len(known) or known.groupby(["track", "nfe"])["series"].nunique().max() < 2:
        return pd.DataFrame(), "There are no two students to compare at the same NFE."
    try:
        table = compare(
            chosen,
            [primary.quality, primary.diversity],
            leader=primary.leader,
            entries=primary.entries,
            families=families,
            rules=rules,
        )
    except UserError as error:
        return pd.DataFrame(), f"No comparison: {error}."
    return table, ""


def pair_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Every comparison, for the table below the sentences."""
    rows = []
    for row in table.to_dict("records"):
        half = (row["high"] - row["low"]) / 2
        places = words.decimals([row["difference"]], [half])
        rows.append(
            {
                "track": words.TRACKS.get(row["track"], row["track"]),
                "nfe": int(row["nfe"]),
                "metric": words.metric(row["metric"]).label,
                "a": row["a"],
                "b": row["b"],
                "difference": words.fixed(row["difference"], places),
                "span": words.span(row["low"], row["high"], places),
                "p": _p(row["p"]),
                "p_holm": _p(row["p_holm"]),
                "seeds": int(row["seeds"]),
                "level": row["level"],
                "family": bool(row["family"]),
                "significant": bool(row["significant"]),
            }
        )
    return rows


def _p(value: float) -> str:
    if not words.finite(value):
        return words.MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def level_note(table: pd.DataFrame, primary: Primary, families: int = 1) -> str:
    """What was tested, and what the sentences are about: methods, or the checkpoints at hand."""
    if not len(table):
        return ""
    family = table[table["family"]]
    described = "differences are described with their intervals, and nobody is told apart."
    if not primary.tested:
        return f"The experiment declares no family of comparisons (family.leader): {described}"
    if not len(family):
        if primary.entries:
            return f"No two of the declared entries are among the students compared: {described}"
        return (
            f"The declared leader, {words.isolated(primary.leader)}, is not among the students "
            f"compared: {described}"
        )
    pairs = families * int(table["declared"].max() if "declared" in table else len(family))
    text = (
        f"Declared {_when(primary)}: {_declared(primary)}, {words.count(pairs, 'comparison')}, "
        "Holm-corrected together. All other differences are described, not tested. "
    )
    methods = (family["level"] == "method").mean()
    if methods == 1:
        seeds = int(family["seeds"].min())
        errors = t_quantile(1 - LEVEL / pairs, 2 * seeds - 3)
        return text + (
            f"Each variant has at least {METHOD_SEEDS} train seeds: the sentences speak of methods "
            "as trained here, by Welch's t over seeds to which the sampling noise is added that "
            "all share. It presumes that no method fails rarely and badly: look at the single "
            f"seeds. With {seeds} seeds and as many comparisons the first to be told apart needs a "
            f"difference of {errors:.1f} standard errors or more, so that what is not told apart "
            "need not be equal."
        )
    text += (
        f"Below {METHOD_SEEDS} train seeds the sentences speak of these checkpoints only: their "
        "intervals hold the noise of sampling, not that of training again, which is often larger."
    )
    return text if methods == 0 else text + " The column “level” says which pair is which."


def _when(primary: Primary) -> str:
    """When it was decided what is tested, in words."""
    if primary.after:
        earlier = words.joined([words.isolated(name) for name in primary.after])
        return f"after {earlier} had run, which declared other comparisons"
    if not primary.since:
        return "in the experiment's file"
    if not primary.trained or primary.since <= primary.trained:
        return "before the run"
    since, trained = (words.minute(time) for time in (primary.since, primary.trained))
    return f"(as the store first saw on {since}, with students trained from {trained} on in it)"


def _declared(primary: Primary) -> str:
    """What is tested, in words."""
    if not primary.entries:
        return f"every variant against {words.isolated(primary.leader)} in the primary metrics"
    entered = [
        f"at {nfe} NFE {words.joined([words.isolated(name) for name in names])}"
        for nfe, names in sorted(primary.entries.items())
    ]
    return (
        "one variant of each family of methods, every two of them in "
        f"{words.metric(primary.quality).label} ({'; '.join(entered)})"
    )
