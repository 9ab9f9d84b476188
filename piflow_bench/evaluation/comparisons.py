"""Paired comparisons of variants in a tidy results table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.protocols import refuse_mixture
from piflow_bench.evaluation.uncertainty import (
    Difference,
    holm,
    jackknife_difference,
    paired_seed_difference,
)

METHOD_SEEDS = 5
"""Common training seeds from which on a comparison speaks of methods, not of checkpoints."""
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
    "significant",
)


def compare(
    results: pd.DataFrame,
    quality: str,
    diversity: str,
    confidence: float = 0.95,
    *,
    question: str | None = None,
    extractor: str | None = None,
) -> pd.DataFrame:
    """Every pair of variants of one track, NFE, question and primary metric: a minus b.

    ``results``: tidy rows; used are those with status ``ok`` at budget fraction 1, of the primary
    metrics, of ``question`` (None: each question by itself) and of the primary ``extractor`` (None:
    the first that occurs with each metric). From 5 common training seeds on: paired t over seeds
    (level ``method``); below: the paired jackknife on the common seeds, replicates averaged over
    seeds (level ``checkpoints``). A teacher is not retrained: its rows are paired with every seed.
    Pairs without a common seed are left out. Holm's correction covers all rows that come back,
    ``significant`` is p_holm < 1 - confidence. UserError where protocols are mixed.
    """
    chosen = _primary_rows(results, [quality, diversity], question, extractor)
    rows = []
    keys = ["track", "nfe", "question", "metric"]
    for key, group in chosen.groupby(keys, sort=True, dropna=False):
        _one_protocol(group, dict(zip(keys, key, strict=True)))
        for a, b, difference, seeds, level in _pairs(group, confidence):
            rows.append(
                [
                    *key,
                    a,
                    b,
                    difference.difference,
                    difference.low,
                    difference.high,
                    difference.p,
                    np.nan,
                    seeds,
                    level,
                    False,
                ]
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if len(table):
        table["p_holm"] = holm(table["p"].to_numpy(dtype=float))
        table["significant"] = table["p_holm"] < 1.0 - confidence
    return table


def _primary_rows(
    results: pd.DataFrame, metrics: Sequence[str], question: str | None, extractor: str | None
) -> pd.DataFrame:
    for metric in dict.fromkeys(metrics):
        present = [str(m) for m in results["metric"].unique()]
        if metric not in present:
            raise UserError(f"no results for primary metric '{metric}'; {nearest(metric, present)}")
    ok = (results["status"] == "ok") & results["metric"].isin(list(metrics))
    final = np.isclose(results["budget_fraction"].astype(float), 1.0)
    # The teacher trains under no student's budget.
    rows = results[ok & (final | (results["role"] == "teacher"))]
    if question is not None:
        rows = rows[rows["question"] == question]
    parts = [_of_extractor(part, extractor) for _, part in rows.groupby("metric", sort=False)]
    return pd.concat(parts) if parts else rows


def _of_extractor(rows: pd.DataFrame, extractor: str | None) -> pd.DataFrame:
    names = rows["extractor"].fillna("")
    if extractor is not None and (names == extractor).any():
        return rows[names == extractor]
    return rows[names == names.iloc[0]]


def _one_protocol(group: pd.DataFrame, where: dict[str, object]) -> None:
    rules = group["rules"] if "rules" in group else pd.Series("{}", group.index)
    known = {
        str(name): json.loads(text or "{}")
        for name, text in zip(group["protocol"], rules, strict=True)
    }
    refuse_mixture(known, ", ".join(f"{key}={value}" for key, value in where.items()))


def _pairs(
    group: pd.DataFrame, confidence: float
) -> Iterator[tuple[str, str, Difference, int, str]]:
    """Names, difference, number of seeds and level of every pair of variants in a group."""
    variants = [str(name) for name in dict.fromkeys(group["variant"])]
    tables = {name: group[group["variant"] == name] for name in variants}
    for a, b in combinations(variants, 2):
        seeds = _common_seeds(tables[a], tables[b])
        if not seeds:
            continue
        if len(seeds) >= METHOD_SEEDS:
            left, right = (_values(tables[name], seeds) for name in (a, b))
            yield a, b, paired_seed_difference(left, right, confidence), len(seeds), "method"
        else:
            yield (
                a,
                b,
                _jackknife(tables[a], tables[b], seeds, confidence),
                len(seeds),
                ("checkpoints"),
            )


def _is_teacher(table: pd.DataFrame) -> bool:
    return bool((table["role"] == "teacher").all())


def _common_seeds(a: pd.DataFrame, b: pd.DataFrame) -> list:
    if _is_teacher(a) and _is_teacher(b):
        return [None]
    if _is_teacher(a) or _is_teacher(b):
        return sorted((b if _is_teacher(a) else a)["train_seed"].dropna().unique())
    return sorted(set(a["train_seed"].dropna()) & set(b["train_seed"].dropna()))


def _of_seed(table: pd.DataFrame, seed: object) -> pd.DataFrame:
    return table if _is_teacher(table) else table[table["train_seed"] == seed]


def _values(table: pd.DataFrame, seeds: list) -> list[float]:
    return [float(_of_seed(table, seed)["value"].mean()) for seed in seeds]


def _jackknife(a: pd.DataFrame, b: pd.DataFrame, seeds: list, confidence: float) -> Difference:
    values = [float(np.mean(_values(table, seeds))) for table in (a, b)]
    left, right = (_mean_replicates(table, seeds) for table in (a, b))
    if left is None or right is None or len(left) != len(right):
        nan = float("nan")
        return Difference(values[0] - values[1], nan, nan, nan, 0)
    return jackknife_difference(values[0], left, values[1], right, confidence)


def _mean_replicates(table: pd.DataFrame, seeds: list) -> np.ndarray | None:
    """Replicates averaged over seeds; None where a row has none or lengths differ.

    The same blocks of sample indices leave every seed's sample at once, so the average over seeds
    is itself a statistic with delete-block values.
    """
    lists = [r for seed in seeds for r in _of_seed(table, seed)["replicates"]]
    arrays = [np.asarray(r, dtype=float) for r in lists if r is not None and np.ndim(r) == 1]
    if len(arrays) != len(lists) or len({len(a) for a in arrays}) != 1 or not len(arrays[0]):
        return None
    return np.mean(arrays, axis=0)
