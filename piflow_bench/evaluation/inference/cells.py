"""One row per cell and measure: the mean over train seeds, its interval and what is behind it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from piflow_bench.evaluation.inference.seeds import seed_interval
from piflow_bench.evaluation.metrics.metric import all_metrics

CELL = [
    "role", "track", "variant", "series", "setting", "method", "family", "nfe", "budget_fraction",
    "serves", "shares",
]  # fmt: skip
OK = "ok"
"""The status of a row that has a value."""
MEASURE = ["question", "extractor", "metric", "protocol"]
USED = [
    "status", "value", "ci_low", "ci_high", "n", "train_seed", "replicates", "reason",
    "budget_tfe", "higher_is_better", "train_images", "train_seconds", "train_steps", "estimator",
]  # fmt: skip


def better_higher(name: str, declared: object = None) -> bool | None:
    """Whether more is better: as the results declare it, otherwise as the harness knows it."""
    if isinstance(declared, (bool, np.bool_)):
        return bool(declared)
    facts = all_metrics().get(name)
    return facts.higher_is_better if facts else None


def with_series(results: pd.DataFrame) -> pd.DataFrame:
    """Add ``series``: the variant, and its sampler settings where one NFE has several of them.

    Rows that are named already keep their names: a part of a run does not know all settings.
    """
    if "series" in results:
        return results
    frame = results.copy()
    pairs = list(zip(frame["sampler"], frame["guidance"].astype(float).fillna(np.inf), strict=True))
    texts = {pair: setting(*pair) for pair in set(pairs)}
    frame["setting"] = [texts[pair] for pair in pairs]
    counts = frame.groupby(["variant", "nfe"], dropna=False)["setting"].nunique()
    several = set(counts[counts > 1].index.get_level_values("variant"))
    shared = {v: _shared(rows) for v, rows in frame.groupby("variant")["setting"] if v in several}
    frame["series"] = [
        f"{v} · {s}" if (s := _without(text, shared[v]) if v in several else "") else v
        for v, text in zip(frame["variant"], frame["setting"], strict=True)
    ]
    return frame


def setting(sampler: str, guidance: float) -> str:
    """How a variant was sampled, in words: its sampler's settings and the guidance."""
    known = not np.isfinite(guidance) or "guidance=" in sampler
    return ", ".join(p for p in (sampler, "" if known else f"guidance={guidance:g}") if p)


def _shared(settings: pd.Series) -> set[str]:
    """What all settings of a variant have in common: it tells none of them apart."""
    return set.intersection(*(set(_parts(text)) for text in settings.unique()))


def _without(text: str, shared: set[str]) -> str:
    return ", ".join(part for part in _parts(text) if part not in shared)


def _parts(text: str) -> list[str]:
    """Settings apart: only a comma before another name ends one."""
    return re.split(r", (?=[\w.-]+=)", text)


def final(results: pd.DataFrame) -> pd.DataFrame:
    """Rows at the full budget; teachers and controls train under none."""
    fraction = results["budget_fraction"]
    done = fraction.isna() | (fraction >= 1 - 1e-6) | (results["role"] != "student")
    return results[done].assign(budget_fraction=1.0)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and measure: mean over train seeds with its interval.

    Two or more train seeds give a t interval over seeds; one gives the interval that came with its
    rows (the jackknife over samples), averaged where there are several sample seeds.
    """
    frame = with_series(results)
    frame["budget_fraction"] = frame["budget_fraction"].round(6)
    # Plain lists: thousands of small groups cost seconds as frames.
    used = [*CELL, *MEASURE, *USED]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for values in zip(*(frame[name].tolist() for name in used), strict=True):
        row = dict(zip(used, values, strict=True))
        key = tuple(None if value != value else value for value in values[: len(CELL + MEASURE)])
        groups.setdefault(key, []).append(row)
    columns = [
        *CELL, *MEASURE, "value", "low", "high", "interval", "seeds", "failed", "reason", "n",
        "higher", "budget_tfe", "train_images", "train_seconds", "train_steps", "by_seed",
        "seed_replicates", "replicates", "estimator",
    ]  # fmt: skip
    summary = pd.DataFrame([_cell(rows) for rows in groups.values()], columns=columns)
    summary["higher"] = summary["higher"].astype(object).where(summary["higher"].notna(), None)
    summary = summary.sort_values(CELL + MEASURE, kind="stable", na_position="first")
    return summary.reset_index(drop=True)


def _cell(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of one cell's rows of one measure."""
    good = [row for row in rows if row["status"] == OK]
    bad = [row for row in rows if row["status"] != OK]
    by_seed: dict[float, list[float]] = {}
    for row in good:
        by_seed.setdefault(_seed(row), []).append(row["value"])
    seeds = {seed: float(np.mean(values)) for seed, values in sorted(by_seed.items())}
    left = {
        seed: _replicates([row["replicates"] for row in good if _seed(row) == seed])
        for seed in seeds
    }
    trained = any(seed >= 0 for seed in seeds)
    low, high, kind = np.nan, np.nan, "none"
    if trained and len(seeds) >= 2:
        interval = seed_interval(list(seeds.values()), replicates=stacked(left, list(seeds)))
        low, high, kind = interval.low, interval.high, "seeds"
    elif good and np.isfinite([[row["ci_low"], row["ci_high"]] for row in good]).all():
        low, high = (float(np.mean([row[end] for row in good])) for end in ("ci_low", "ci_high"))
        kind = "samples"
    declared = [row["higher_is_better"] for row in rows if row["higher_is_better"] is not None]
    first = rows[0]
    return {
        **{name: first[name] for name in CELL + MEASURE},
        "value": float(np.mean(list(seeds.values()))) if seeds else np.nan,
        "low": low,
        "high": high,
        "interval": kind,
        "seeds": len(seeds) if trained else 0,
        "failed": len({_seed(row) for row in bad}),
        "reason": "; ".join(sorted({row["reason"] for row in bad} - {""})),
        "n": max((row["n"] for row in good), default=np.nan),
        "higher": better_higher(first["metric"], declared[0] if declared else None),
        **{
            name: float(np.mean([row[name] for row in good])) if good else np.nan
            for name in ("budget_tfe", "train_images", "train_seconds", "train_steps")
        },
        "estimator": ", ".join(sorted({row["estimator"] for row in good} - {""})),
        "by_seed": seeds,
        "seed_replicates": left,
        "replicates": _replicates([row["replicates"] for row in good]),
    }


def _seed(row: dict[str, Any]) -> float:
    return row["train_seed"] if np.isfinite(row["train_seed"]) else -1.0


def _replicates(lists: list[list[float]]) -> list[float]:
    """Jackknife replicates averaged over a cell's rows: the same blocks left every one of them."""
    if not lists or len({len(r) for r in lists}) != 1 or not lists[0]:
        return []
    return [float(v) for v in np.mean(lists, axis=0)]


def stacked(left: Mapping[float, list[float]], seeds: Iterable[float]) -> np.ndarray | None:
    """Replicates ``(seeds, blocks)`` of some seeds; None where one has none, or others."""
    lists = [left[seed] for seed in seeds]
    return np.array(lists) if len({len(r) for r in lists}) == 1 and lists[0] else None


def measured(summary: pd.DataFrame) -> pd.DataFrame:
    """Summary rows that hold a value."""
    return summary[np.isfinite(summary["value"].astype(float))]
