"""Pure pandas: from tidy rows to one summary per cell, and the choices that all parts share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports import words
from piflow_reports.words import better_higher
from scipy.special import betainc

from piflow_bench.evaluation.uncertainty import (
    FUZZ,
    Difference,
    jackknife_difference,
    paired_seed_difference,
    seed_interval,
)

CELL = [
    "role", "track", "variant", "series", "setting", "method", "family", "nfe", "budget_fraction",
]  # fmt: skip
MEASURE = ["question", "extractor", "metric", "protocol"]
USED = [
    "status", "value", "ci_low", "ci_high", "n", "train_seed", "replicates", "reason",
    "budget_tfe", "higher_is_better", "train_images", "train_seconds",
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
    """Add ``series``: the variant, and its sampler settings where one NFE has several of them.

    Rows that are named already keep their names: a part of a run does not know all settings.
    """
    if "series" in results:
        return results
    frame = results.copy()
    pairs = list(zip(frame["sampler"], frame["guidance"].fillna(np.inf), strict=True))
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
    known = not words.finite(guidance) or "guidance=" in sampler
    return ", ".join(p for p in (sampler, "" if known else f"guidance={guidance:g}") if p)


def _shared(settings: pd.Series) -> set[str]:
    """What all settings of a variant have in common: it tells none of them apart."""
    return set.intersection(*(set(_parts(text)) for text in settings.unique()))


def _without(text: str, shared: set[str]) -> str:
    return ", ".join(part for part in _parts(text) if part not in shared)


def _parts(text: str) -> list[str]:
    """Settings apart: only a comma before another name ends one."""
    return re.split(r", (?=[\w.-]+=)", text)


def series_names(results: pd.DataFrame) -> dict[tuple[str, float, str], str]:
    """The series of (variant, NFE or -1, setting), for tables that know only these."""
    frame = with_series(results)
    keys = zip(frame["variant"], frame["nfe"].fillna(-1), frame["setting"], strict=True)
    return dict(zip(keys, frame["series"], strict=True))


def name_series(
    rows: list[dict[str, Any]], names: dict[tuple[str, float, str], str]
) -> list[dict[str, Any]]:
    """Records with the ``series`` that their variant, NFE and setting stand for."""
    found = []
    for row in rows:
        guidance = row.get("guidance")
        text = setting(str(row.get("sampler") or ""), np.nan if guidance is None else guidance)
        nfe = row.get("nfe")
        key = (str(row.get("variant", "")), -1.0 if nfe is None else float(nfe), text)
        found.append({**row, "series": names.get(key, str(row.get("variant", "")))})
    return found


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
        "higher", "budget_tfe", "train_images", "train_seconds", "by_seed",
        "seed_replicates", "replicates",
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
    left = {
        seed: _replicates([row["replicates"] for row in good if _seed(row) == seed])
        for seed in seeds
    }
    trained = any(seed >= 0 for seed in seeds)
    low, high, kind = np.nan, np.nan, "none"
    if trained and len(seeds) >= 2:
        interval = seed_interval(list(seeds.values()), replicates=_stacked(left, list(seeds)))
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
            for name in ("budget_tfe", "train_images", "train_seconds")
        },
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


def _stacked(left: dict[float, list[float]], seeds: list[float]) -> np.ndarray | None:
    """Replicates ``(seeds, blocks)`` of some seeds; None where one has none, or others."""
    lists = [left[seed] for seed in seeds]
    return np.array(lists) if len({len(r) for r in lists}) == 1 and lists[0] else None


def difference(a: pd.Series, b: pd.Series) -> Difference | None:
    """Paired difference of two summary rows: over seeds, or over blocks of samples; else None."""
    common = sorted(set(a["by_seed"]) & set(b["by_seed"]))
    if a["seeds"] and b["seeds"] and len(common) >= 2:
        sides = [_stacked(one["seed_replicates"], common) for one in (a, b)]
        apart = None
        if sides[0] is not None and sides[1] is not None and sides[0].shape == sides[1].shape:
            apart = sides[0] - sides[1]
        return paired_seed_difference(
            [a["by_seed"][s] for s in common], [b["by_seed"][s] for s in common], replicates=apart
        )
    left, right = a["replicates"], b["replicates"]
    if len(left) < 2 or len(left) != len(right):
        return None
    return jackknife_difference(a["value"], left, b["value"], right)


def pair_differences(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``difference`` and its p-value for all pairs of summary rows at once.

    Pairs come as ``i < j``, then i - j and p ``(pairs,)`` each; p is NaN where ``difference`` has
    no interval.
    """
    i, j = np.triu_indices(len(rows), 1)
    seeds = sorted({seed for row in rows if row["seeds"] for seed in row["by_seed"]})
    values = np.array([
        [row["by_seed"].get(seed, np.nan) if row["seeds"] else np.nan for seed in seeds]
        for row in rows
    ])  # fmt: skip
    gaps = values[i] - values[j]
    common = np.isfinite(gaps)
    value = np.array([row["value"] for row in rows], dtype=float)
    scale = np.maximum(np.abs(value[i]), np.abs(value[j]))
    mean, squares, n = _deviations(gaps, common)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = squares / (n - 1) / n
        shared = _shared_variances(rows, seeds, i, j, common)
        over_seeds = _t_test(mean, np.sqrt(between + shared), n - 1, scale)

    lengths = np.array([len(row["replicates"]) for row in rows])
    blocks = np.zeros((len(rows), max(lengths, default=0)))
    for own, row, length in zip(blocks, rows, lengths, strict=True):
        own[:length] = row["replicates"]
    held = np.arange(blocks.shape[1]) < lengths[i, None]
    _, squares, g = _deviations(blocks[i] - blocks[j], held)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(squares * (g - 1) / g)
        over_blocks = _t_test(value[i] - value[j], error, g - 1, scale)
    over_blocks[(lengths[i] != lengths[j]) | (g < 2)] = np.nan
    gap = np.where(n >= 2, mean, value[i] - value[j])
    return i, j, gap, np.where(n >= 2, over_seeds, over_blocks)


def _shared_variances(
    rows: Sequence[Mapping[str, Any]],
    seeds: list[float],
    i: np.ndarray,
    j: np.ndarray,
    common: np.ndarray,
) -> np.ndarray:
    """``shared_variance`` of all pairs ``(pairs,)`` over their common seeds.

    0 where a replicate is missing.
    """
    lists = [[row["seed_replicates"].get(s, []) if row["seeds"] else [] for s in seeds]
             for row in rows]  # fmt: skip
    longest = max((len(r) for own in lists for r in own), default=0)
    lengths = np.array([[len(r) for r in own] for own in lists]).reshape(len(rows), len(seeds))
    if longest < 2:
        return np.zeros(len(i))
    table = np.full((len(rows), len(seeds), longest), np.nan)
    for own, of_row in zip(table, lists, strict=True):
        for place, r in zip(own, of_row, strict=True):
            place[: len(r)] = r
    left = table[i] - table[j]  # (pairs, seeds, blocks)
    g = np.where(common, lengths[i], 0).max(axis=1)
    same = np.where(common, (lengths[i] == g[:, None]) & (lengths[j] == g[:, None]), True)
    held = np.arange(longest) < g[:, None]
    n = common.sum(axis=1)
    whole = np.where(common[:, :, None] & held[:, None, :], left, 0.0)
    usable = same.all(axis=1) & np.isfinite(whole).all(axis=(1, 2)) & (g > 1) & (n > 1)
    whole = np.where(usable[:, None, None], whole, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        centred = np.where(held[:, None, :], whole - (whole.sum(2) / g[:, None])[:, :, None], 0.0)
        each = (centred**2).sum(2) * ((g - 1) / g)[:, None]
        apart = np.where(common, each, 0.0).sum(1) / n
        middle = np.where(common[:, :, None], centred, 0.0).sum(1) / n[:, None]
        together = (middle**2).sum(1) * (g - 1) / g
        shared = together - (apart - together) / (n - 1)
    return np.where(usable, np.maximum(shared, 0.0), 0.0)


def _deviations(x: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sum of squared deviations and count of each row of x ``(k, m)`` where ``held``."""
    n = held.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(held, x, 0.0).sum(axis=1) / n
        squares = np.where(held, (x - mean[:, None]) ** 2, 0.0).sum(axis=1)
    return mean, squares, n


def _t_test(value: np.ndarray, error: np.ndarray, dof: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Two-sided p-values of Student's t; a difference without any spread has none, unless nil."""
    with np.errstate(over="ignore"):
        x = dof / (dof + (value / error) ** 2)
    p = betainc(dof / 2.0, 0.5, x)
    nil = np.where(np.abs(value) <= FUZZ * scale, 1.0, np.nan)
    return np.where(error <= FUZZ * scale, nil, p)


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
    """The NFEs that have a ranking: of students; without any of the teacher, or of controls."""
    for role in ("student", "teacher", "control"):
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
        "sample_seconds", "policy_seconds", "train_memory", "sample_memory",
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
