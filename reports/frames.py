"""Pure pandas: from tidy rows to one summary per cell, and the choices that all parts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.words import better_higher

from piflow_bench.evaluation.uncertainty import (
    Difference,
    jackknife_difference,
    paired_seed_difference,
    seed_interval,
)

CELL = ["role", "track", "variant", "series", "method", "family", "nfe", "budget_fraction"]
MEASURE = ["question", "extractor", "metric", "protocol"]
USED = [
    "status", "value", "ci_low", "ci_high", "n", "train_seed", "replicates", "reason",
    "budget_tfe", "higher_is_better",
]  # fmt: skip
CEILING = "teacher-converged"
QUALITY = ("fd", "fd_infinity", "energy_distance", "sliced_wasserstein", "kid", "teacher_mse")
DIVERSITY = ("recall", "modes_covered", "coverage", "mode_tv", "vendi", "pairwise_distance")


@dataclass(frozen=True)
class Primary:
    """What the experiment declared before it ran."""

    question: str
    quality: str
    diversity: str
    extractor: str
    declared: bool = True


def primary(info: dict[str, Any], results: pd.DataFrame) -> Primary:
    """The declared primary metrics; where a run declares none, the usual ones among its rows."""
    declared = info.get("primary") or {}
    rows = results[(results["metric"] != "") & (results["role"] != "control")]
    present = set(rows["metric"])

    def choose(key: str, usual: tuple[str, ...], among: set[str]) -> str:
        given = declared.get(key)
        return str(given) if given else next((u for u in usual if u in among), usual[0])

    quality = choose("quality", QUALITY, present)
    names = rows.loc[rows["metric"] == quality, "extractor"]
    usual = str(names.mode().iloc[0]) if len(names) else ""
    return Primary(
        question=choose("question", ("imitation", "data", "truth"), set(rows["question"])),
        quality=quality,
        diversity=choose("diversity", DIVERSITY, present),
        extractor=str(declared.get("extractor") or usual),
        declared=bool(declared.get("quality")),
    )


def with_series(results: pd.DataFrame) -> pd.DataFrame:
    """Add ``series``: the variant, and its sampler settings where one NFE has several of them."""
    frame = results.copy()
    setting = [
        ", ".join(part for part in (s, f"guidance={g:g}" if np.isfinite(g) else "") if part)
        for s, g in zip(frame["sampler"], frame["guidance"], strict=True)
    ]
    frame["setting"] = setting
    counts = frame.groupby(["variant", "nfe"], dropna=False)["setting"].nunique()
    several = set(counts[counts > 1].index.get_level_values("variant"))
    frame["series"] = [
        f"{v} · {s}" if v in several and s else v
        for v, s in zip(frame["variant"], frame["setting"], strict=True)
    ]
    return frame


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
        "higher", "budget_tfe", "by_seed", "replicates",
    ]  # fmt: skip
    summary = pd.DataFrame([_cell(rows) for rows in groups.values()], columns=columns)
    summary["higher"] = summary["higher"].astype(object).where(summary["higher"].notna(), None)
    summary = summary.sort_values(CELL + MEASURE, kind="stable", na_position="first")
    return summary.reset_index(drop=True)


def _cell(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of one cell's rows of one measure."""
    good = [row for row in rows if row["status"] == "ok"]
    bad = [row for row in rows if row["status"] != "ok"]
    by_seed: dict[float, list[float]] = {}
    for row in good:
        by_seed.setdefault(_seed(row), []).append(row["value"])
    seeds = {seed: float(np.mean(values)) for seed, values in sorted(by_seed.items())}
    trained = any(seed >= 0 for seed in seeds)
    low, high, kind = np.nan, np.nan, "none"
    if trained and len(seeds) >= 2:
        interval = seed_interval(list(seeds.values()))
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
        "budget_tfe": float(np.mean([row["budget_tfe"] for row in good])) if good else np.nan,
        "by_seed": seeds,
        "replicates": _replicates([row["replicates"] for row in good]),
    }


def _seed(row: dict[str, Any]) -> float:
    return row["train_seed"] if np.isfinite(row["train_seed"]) else -1.0


def _replicates(lists: list[list[float]]) -> list[float]:
    """Jackknife replicates averaged over a cell's rows: the same blocks left every one of them."""
    if not lists or len({len(r) for r in lists}) != 1 or not lists[0]:
        return []
    return [float(v) for v in np.mean(lists, axis=0)]


def difference(a: pd.Series, b: pd.Series) -> Difference | None:
    """Paired difference of two summary rows: over seeds, or over blocks of samples; else None."""
    common = sorted(set(a["by_seed"]) & set(b["by_seed"]))
    if a["seeds"] and b["seeds"] and len(common) >= 2:
        return paired_seed_difference(
            [a["by_seed"][s] for s in common], [b["by_seed"][s] for s in common]
        )
    left, right = a["replicates"], b["replicates"]
    if len(left) < 2 or len(left) != len(right):
        return None
    return jackknife_difference(a["value"], left, b["value"], right)


def measured(summary: pd.DataFrame) -> pd.DataFrame:
    """Summary rows that hold a value."""
    return summary[np.isfinite(summary["value"].astype(float))]


def select(summary: pd.DataFrame, question: str, metric: str, extractor: str) -> pd.DataFrame:
    """The rows of one measure; another extractor's only where the wanted one never has it."""
    rows = summary[(summary["question"] == question) & (summary["metric"] == metric)]
    names = set(rows["extractor"])
    if extractor not in names and names:
        extractor = sorted(names)[0]
    return rows[rows["extractor"] == extractor]


def series_order(results: pd.DataFrame, info: dict[str, Any]) -> list[str]:
    """Every series once: students as the experiment lists them, then teachers, then controls."""
    listed = {str(v.get("name")): i for i, v in enumerate(info.get("variants") or [])}
    frame = with_series(results)[["role", "variant", "series"]].drop_duplicates()
    roles = {"student": 0, "teacher": 1, "control": 2}
    keys = [
        (roles.get(r, 3), listed.get(v, len(listed)), v, s)
        for r, v, s in frame.itertuples(index=False)
    ]
    return list(dict.fromkeys(key[-1] for key in sorted(keys)))


def nfes(summary: pd.DataFrame) -> list[int]:
    """The NFEs that have a ranking: those of students; the teacher's where there is no student."""
    for role in ("student", "teacher"):
        found = summary.loc[summary["role"] == role, "nfe"].dropna().unique()
        if len(found):
            return sorted(int(n) for n in found)
    return []


def costs(results: pd.DataFrame) -> pd.DataFrame:
    """What each series cost, per NFE: sums of training, medians of sampling."""
    frame = with_series(final(results))
    frame = frame[(frame["status"] == "ok") & (frame["role"] != "control")]
    columns = [
        "train_tfe", "train_images", "train_seconds", "params", "flops_per_sample",
        "sample_seconds", "policy_seconds",
    ]  # fmt: skip
    return frame.groupby(["series", "role", "nfe"], sort=True)[columns].median().reset_index()


def protocol_clashes(results: pd.DataFrame) -> list[str]:
    """Measures that were taken under several protocols, in words."""
    rows = results[results["protocol"] != ""]
    counts = rows.groupby(["question", "extractor"])["protocol"].nunique()
    clashes = counts[counts > 1].reset_index().to_numpy().tolist()
    return [
        f"{question} ({extractor}): {count} protocols; each has columns of its own"
        for question, extractor, count in clashes
    ]
