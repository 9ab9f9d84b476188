"""Paired comparisons of variants in a tidy results table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

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
    the first that occurs with each metric). From 5 common training seeds on: paired t over seeds,
    with the sampling noise that they share added where rows have replicates (level ``method``);
    below: the paired jackknife on the common seeds, replicates averaged over
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
    variants = _variants(group)
    averages: dict[tuple[str, tuple[Any, ...]], np.ndarray | None] = {}
    for a, b in combinations(variants, 2):
        seeds = _common_seeds(a, b)
        if not seeds:
            continue
        left, right = a.values(seeds), b.values(seeds)
        if len(seeds) >= METHOD_SEEDS:
            apart = _seed_replicates(a, b, seeds)
            found, level = paired_seed_difference(left, right, confidence, apart), "method"
        else:
            for one in (a, b):
                if (one.name, seeds) not in averages:
                    averages[one.name, seeds] = _mean_replicates(one, seeds)
            sides = (averages[a.name, seeds], averages[b.name, seeds])
            found, level = _jackknife(left, right, *sides, confidence), "checkpoints"
        yield a.name, b.name, found, len(seeds), level


@dataclass(frozen=True)
class _Variant:
    """A variant's rows in one group as plain Python: frames are too slow to ask per pair.

    ``means`` and ``replicates`` have one entry per training seed; a teacher's single entry is None
    and stands for every seed. Replicates are one array ``(blocks,)`` per row, or None.
    """

    name: str
    is_teacher: bool
    means: dict[Any, float]
    replicates: dict[Any, list[np.ndarray | None]]

    def key(self, seed: Any) -> Any:
        """The entry that holds a training seed."""
        return None if self.is_teacher else seed

    def values(self, seeds: Iterable[Any]) -> list[float]:
        """The mean value of each seed."""
        return [self.means[self.key(seed)] for seed in seeds]


def _variants(group: pd.DataFrame) -> list[_Variant]:
    """The variants of a group in the order of their first rows."""
    names = ["variant", "role", "train_seed", "value"]
    columns = [group[name].tolist() for name in names]
    columns.append(group["replicates"].tolist() if "replicates" in group else [None] * len(group))
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for name, *row in zip(*columns, strict=True):
        rows.setdefault(str(name), []).append(tuple(row))
    return [_variant(name, own) for name, own in rows.items()]


def _variant(name: str, rows: list[tuple[Any, ...]]) -> _Variant:
    """A variant from its rows of (role, training seed, value, replicates)."""
    is_teacher = all(role == "teacher" for role, *_ in rows)
    values: dict[Any, list[float]] = {}
    replicates: dict[Any, list[np.ndarray | None]] = {}
    for _, train_seed, value, blocks in rows:
        seed = None if is_teacher else train_seed
        if is_teacher or not pd.isna(seed):
            values.setdefault(seed, []).append(value)
            replicates.setdefault(seed, []).append(_blocks(blocks))
    return _Variant(name, is_teacher, {s: _mean(v) for s, v in values.items()}, replicates)


def _mean(values: list[float]) -> float:
    """The mean of the known values; NaN where there is none."""
    v = np.asarray(values, dtype=float)
    known = np.count_nonzero(~np.isnan(v))
    return float(np.nansum(v) / known) if known else float("nan")


def _blocks(replicates: Any) -> np.ndarray | None:
    if replicates is None or np.ndim(replicates) != 1:
        return None
    return np.asarray(replicates, dtype=float)


def _common_seeds(a: _Variant, b: _Variant) -> tuple[Any, ...]:
    """The training seeds that pair a with b; a teacher has all of them."""
    if a.is_teacher and b.is_teacher:
        return (None,)
    if a.is_teacher or b.is_teacher:
        return tuple(sorted((b if a.is_teacher else a).means))
    return tuple(sorted(set(a.means) & set(b.means)))


def _jackknife(
    a_values: list[float],
    b_values: list[float],
    a_replicates: np.ndarray | None,
    b_replicates: np.ndarray | None,
    confidence: float,
) -> Difference:
    a, b = float(np.mean(a_values)), float(np.mean(b_values))
    if a_replicates is None or b_replicates is None or len(a_replicates) != len(b_replicates):
        nan = float("nan")
        return Difference(a - b, nan, nan, nan, 0)
    return jackknife_difference(a, a_replicates, b, b_replicates, confidence)


def _seed_replicates(a: _Variant, b: _Variant, seeds: Iterable[Any]) -> np.ndarray | None:
    """Replicates of a - b ``(seeds, blocks)``; None where a row has none or lengths differ."""
    sides = [[_mean_replicates(one, [seed]) for seed in seeds] for one in (a, b)]
    known = [r for side in sides for r in side if r is not None]
    if len(known) < sum(map(len, sides)) or len({len(r) for r in known}) != 1:
        return None
    return np.array(sides[0]) - np.array(sides[1])


def _mean_replicates(variant: _Variant, seeds: Iterable[Any]) -> np.ndarray | None:
    """Replicates averaged over seeds; None where a row has none or lengths differ.

    The same blocks of sample indices leave every seed's sample at once, so the average over seeds
    is itself a statistic with delete-block values.
    """
    rows = [r for seed in seeds for r in variant.replicates[variant.key(seed)]]
    known = [r for r in rows if r is not None]
    if len(known) != len(rows) or len({len(r) for r in known}) != 1 or not len(known[0]):
        return None
    return np.mean(known, axis=0)
