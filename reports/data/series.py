"""Pure pandas: from tidy rows to one summary per cell, and the choices that all parts share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from piflow_bench.evaluation.inference.cells import (
    better_higher,
    final,
    measured,
    setting,
    with_series,
)
from piflow_bench.evaluation.inference.cells import summarise as summarise_cells
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.pipeline.results.schema import Status
from piflow_bench.tracks import DISTILLED, ONE_BUDGET

__all__ = ["better_higher", "final", "measured", "setting", "summarise", "with_series"]

CEILING = "teacher-converged"
REAL = "real-vs-real"
QUALITY = ("fd", "fd_infinity", "energy_distance", "sliced_wasserstein", "kid", "teacher_mse")
DIVERSITY = ("recall", "modes_covered", "coverage", "mode_tv", "vendi", "pairwise_distance")


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and measure; intervals as readers see them, none beyond its metric's range.

    A symmetric interval of a share near 1 ends above 1, where no share lies.
    """
    return in_range(summarise_cells(results), "low", "high")


def by_budget(results: pd.DataFrame, primary: Primary) -> pd.DataFrame:
    """The students' cells at all checkpoints, in the primary metrics and question."""
    students = results[results["role"] == "student"]
    way = students["metric"].isin([primary.quality, primary.diversity])
    return summarise(students[way & (students["question"] == primary.question)])


def in_range(rows: pd.DataFrame, *ends: str) -> pd.DataFrame:
    """The rows with these ends of intervals kept in the range of their row's ``metric``."""
    known = all_metrics()
    facts = [known.get(name) for name in rows["metric"]]
    kept = {
        end: [f.within(v) if f else v for f, v in zip(facts, rows[end].astype(float), strict=True)]
        for end in ends
    }
    return rows.assign(**{end: pd.Series(v, rows.index, float) for end, v in kept.items()})


@dataclass(frozen=True)
class Primary:
    """What the experiment declared before it ran."""

    question: str
    quality: str
    diversity: str
    extractor: str
    declared: bool = True
    leader: str = ""
    """The variant that the experiment compares every other one with; empty: none was declared."""
    entries: dict[int, list[str]] = field(default_factory=dict)
    """In its place, by NFE: the variants entered for families of methods; every two of them."""
    after: tuple[str, ...] = ()
    """Runs that had declared other comparisons, and were there when these were declared."""
    since: str = ""
    """When the store first saw these comparisons (UTC, ISO 8601); empty: unknown."""
    trained: str = ""
    """When the first student began to be trained; empty: none was."""

    @property
    def tested(self) -> bool:
        """Whether comparisons were declared."""
        return bool(self.leader or self.entries)

    @property
    def told_from(self) -> str:
        """From whom marks in tables tell somebody apart, in words; empty: from nobody."""
        if self.entries:
            return "the best of the families' entries"
        return "the declared leader" if self.leader else ""


def primary(info: dict[str, Any], results: pd.DataFrame) -> Primary:
    """The declared primary metrics; where a run declares none, the usual ones among its rows."""
    declared = info.get("primary") or {}
    rows = results[(results["metric"] != "") & (results["role"] != "control")]
    present = set(rows["metric"])

    def choose(key: str, usual: tuple[str, ...], among: set[str]) -> str:
        given = declared.get(key)
        return str(given) if given else next((u for u in usual if u in among), usual[0])

    family, about = info.get("family") or {}, info.get("provenance") or {}
    trained = about.get("first_training")
    entries = {int(nfe): list(names) for nfe, names in (family.get("entries") or {}).items()}
    quality = choose("quality", QUALITY, present)
    names = rows.loc[rows["metric"] == quality, "extractor"]
    usual = str(names.mode().iloc[0]) if len(names) else ""
    return Primary(
        question=choose("question", ("imitation", "data", "truth"), set(rows["question"])),
        quality=quality,
        diversity=choose("diversity", DIVERSITY, present),
        extractor=str(declared.get("extractor") or usual),
        declared=bool(declared.get("quality")),
        leader=str(family.get("leader") or ""),
        entries=entries if not family.get("leader") else {},
        after=tuple(info.get("declared_after") or ()),
        since=str(about.get("declared") or "") if trained is not None else "",
        trained=str(trained or ""),
    )


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


def select(summary: pd.DataFrame, question: str, metric: str, extractor: str) -> pd.DataFrame:
    """The rows of one measure; another extractor's only where the wanted one never has it."""
    rows = summary[(summary["question"] == question) & (summary["metric"] == metric)]
    names = set(rows["extractor"])
    if extractor not in names and names:
        extractor = sorted(names)[0]
    return rows[rows["extractor"] == extractor]


def both_sides(summary: pd.DataFrame, primary: Primary, question: str) -> pd.DataFrame:
    """One row per series and NFE that has both primary metrics (suffixes _q and _d)."""
    rows = measured(summary)
    if primary.quality == primary.diversity:
        rows = rows.iloc[:0]
    sides = [
        select(rows, question, name, primary.extractor)
        for name in (primary.quality, primary.diversity)
    ]
    keys = ["series", "variant", "nfe", "role", "track", "protocol"]
    return sides[0].merge(sides[1], on=keys, suffixes=("_q", "_d"))


def rules(results: pd.DataFrame) -> dict[str, str]:
    """The rules behind each protocol's hash, as JSON."""
    return dict(zip(results["protocol"], results["rules"], strict=True))


def with_one_budget(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary, and elastic students once more beside the specialists that share one budget."""
    if not (summary["track"] == ONE_BUDGET).any():
        return summary
    elastic = summary["serves"].str.contains(",") & (summary["track"] == DISTILLED)
    beside = summary[elastic].assign(track=ONE_BUDGET)
    return pd.concat([summary, beside], ignore_index=True)


def floor(summary: pd.DataFrame, question: str, metric: str, extractor: str) -> float:
    """What equal distributions give at this n: the converged teacher, or real samples, redrawn."""
    control = CEILING if question == "imitation" else REAL
    rows = measured(select(summary, question, metric, extractor))
    found = rows.loc[rows["variant"] == control, "value"]
    return float(found.iloc[0]) if len(found) == 1 else float("nan")


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
    frame = frame[(frame["status"] == Status.OK) & (frame["role"] != "control")]
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
