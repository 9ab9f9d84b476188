"""Who is told apart from whom.

An experiment's file declares one family of comparisons before anything is run: every variant
against one named leader, in the primary metrics, at every NFE; or the entries of a few families of
methods, every two of them, in the first metric alone. Holm's correction covers what is declared,
and nobody is told apart outside it: all other differences are shown with their intervals and no
verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from piflow_bench.evaluation.inference.cells import measured, stacked
from piflow_bench.evaluation.inference.seeds import paired_seed_difference, seed_difference
from piflow_bench.evaluation.protocols import refuse_mixture
from piflow_bench.evaluation.uncertainty import Difference, holm, jackknife_difference
from piflow_bench.tracks import ONE_BUDGET

LEVEL = 0.05
"""Share of null reports that tell somebody apart anywhere."""
METHOD_SEEDS = 5
"""Training seeds of each side from which on a comparison speaks of methods, not of checkpoints."""
COLUMNS = (
    "track",
    "nfe",
    "question",
    "metric",
    "a",
    "b",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "seeds",
    "level",
    "family",
    "significant",
    "declared",
)
Cell = Mapping[str, Any]
"""A row of ``cells.summarise``."""


def compare(
    cells: pd.DataFrame,
    metrics: Sequence[str],
    *,
    leader: str = "",
    entries: Mapping[int, Sequence[str]] | None = None,
    families: int = 1,
    rules: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Every pair of cells of one track, NFE, question and metric: a minus b.

    ``cells``: rows of ``summarise`` that may be compared, of one extractor a metric. Pairs of the
    variant ``leader`` with another one are the declared ``family``, or, where there is none, every
    two of the ``entries`` (variants by NFE) in the first of ``metrics``; but not where specialists
    share one budget: that is described. They alone have p-values; Holm's correction covers all that
    were declared, those that failed or have no interval too; ``significant`` is p_holm < ``LEVEL``.
    A page of several ``families`` divides its false reports among them. ``rules``: those behind
    each protocol's hash, as JSON, for the refusal.

    Raises:
        UserError: where cells of several protocols meet.
    """
    rows: list[list[Any]] = []
    where = ["track", "nfe", "question"]
    declared = 0

    def tested(place: tuple[Any, ...], metric: str, a: str, b: str) -> bool:
        if place[0] == ONE_BUDGET:
            return False
        if leader:
            return (a == leader) != (b == leader)
        entered = (entries or {}).get(int(place[1]), ())
        return metric == metrics[0] and a != b and {a, b} <= set(entered)

    for place, everyone in cells.groupby(where, sort=True, dropna=False):
        # Whoever was entered here, measured or failed: the family was declared with it.
        entered = dict(zip(everyone["series"], everyone["variant"], strict=True))
        known = measured(everyone)
        for metric in sorted(set(known["metric"]) & set(metrics)):
            group = known[known["metric"] == metric]
            declared += sum(tested(place, metric, *ab) for ab in combinations(entered.values(), 2))
            _refuse_mixture(group, (*place, metric), rules or {})
            for a, b in combinations(group.to_dict("records"), 2):
                gap, level = difference(a, b)
                family = tested(place, metric, a["variant"], b["variant"])
                seeds = min((c["seeds"] for c in (a, b) if c["seeds"]), default=0)
                p = gap.p if family else np.nan
                rows.append(
                    [*place, metric, a["series"], b["series"], gap.difference, gap.low, gap.high,
                     p, np.nan, seeds, level, family, False]
                )  # fmt: skip
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "declared"])
    table["declared"] = declared
    if len(table):
        table["p_holm"] = (families * _holm_of_declared(table, declared)).clip(max=1.0)
        table["significant"] = table["p_holm"] < LEVEL
    return table


def _refuse_mixture(group: pd.DataFrame, place: tuple[Any, ...], rules: Mapping[str, str]) -> None:
    names = ("track", "nfe", "question", "metric")
    where = ", ".join(f"{name}={value}" for name, value in zip(names, place, strict=True))
    known = {str(p): json.loads(rules.get(p) or "{}") for p in set(group["protocol"])}
    refuse_mixture(known, where)


def _holm_of_declared(table: pd.DataFrame, declared: int) -> np.ndarray:
    """Holm's p-values of the family; what cannot be tested counts as if it were not told apart."""
    p = table["p"].to_numpy(dtype=float)
    tested = np.isfinite(p)
    others = np.ones(max(declared - tested.sum(), 0))
    adjusted = holm(np.append(p, others))[: len(p)]
    return np.where(tested, adjusted, np.nan)


def difference(a: Cell, b: Cell) -> tuple[Difference, str]:
    """a - b with its interval, and its level: "method" or "checkpoints".

    With ``METHOD_SEEDS`` training seeds of whatever is trained, Welch's t over seeds (a teacher is
    not trained again and has no spread). With fewer the paired jackknife of the means over seeds:
    it holds the noise of sampling alone and speaks of the checkpoints at hand.
    """
    trained = [cell for cell in (a, b) if cell["seeds"]]
    if trained and all(cell["seeds"] >= METHOD_SEEDS for cell in trained):
        left = [stacked(cell["seed_replicates"], cell["by_seed"]) for cell in (a, b)]
        return seed_difference(_values(a), _values(b), replicates=(left[0], left[1])), "method"
    if len(a["replicates"]) != len(b["replicates"]):
        nan = float("nan")
        return Difference(a["value"] - b["value"], nan, nan, nan, 0), "checkpoints"
    sides = (a["value"], a["replicates"], b["value"], b["replicates"])
    return jackknife_difference(*sides), "checkpoints"


def changed(new: Cell, old: Cell) -> Difference | None:
    """One variant in two runs: new - old, paired by training seed; None if nothing pairs them.

    The same seed trains on the same batches from the same weights, so that what a change did shows
    in pairs. Below two common seeds: the paired jackknife over blocks of samples.
    """
    common = sorted(set(new["by_seed"]) & set(old["by_seed"]))
    if new["seeds"] and old["seeds"] and len(common) >= 2:
        sides = [stacked(cell["seed_replicates"], common) for cell in (new, old)]
        apart = None
        if sides[0] is not None and sides[1] is not None and sides[0].shape == sides[1].shape:
            apart = sides[0] - sides[1]
        ours, theirs = ([cell["by_seed"][seed] for seed in common] for cell in (new, old))
        return paired_seed_difference(ours, theirs, replicates=apart)
    left, right = new["replicates"], old["replicates"]
    if len(left) < 2 or len(left) != len(right):
        return None
    return jackknife_difference(new["value"], left, old["value"], right)


def _values(cell: Cell) -> list[float]:
    return list(cell["by_seed"].values())
