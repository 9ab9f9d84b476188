"""Which trial of each variant is best: a function of the trials' results alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from piflow_bench.evaluation.metrics.metric import all_metrics

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Trial:
    """A trial and what came of it."""

    variant: str
    """Whose settings it tries."""
    number: int
    """0: the published recipe."""
    name: str
    settings: Mapping[str, Any]
    """Those that were looked for, as the trial has them."""
    values: Mapping[int, float]
    """Of the metric that decides, by NFE; nan where the trial failed."""


@dataclass(frozen=True)
class Choice:
    """The best trial of a variant, for all its NFEs or for one."""

    trial: Trial
    nfe: int | None
    """None: for all."""
    value: float
    """Of the metric that decides; of several NFEs their geometric mean."""


def trials_in(
    results: pd.DataFrame,
    variants: Sequence[Mapping[str, Any]],
    question: str,
    extractor: str,
    metric: str,
) -> dict[str, list[Trial]]:
    """The trials of every variant, in order.

    Args:
        results: rows of a run of trials.
        variants: what the run says of each: ``name, trial_of, settings, defaults``.
        question, extractor, metric: which rows decide.
    """
    rows = results[
        (results["question"] == question)
        & (results["extractor"] == extractor)
        & (results["metric"] == metric)
        & (results["budget_fraction"] == 1.0)
    ]
    values = {
        name: {int(n): float(v) for n, v in zip(own["nfe"], own["value"], strict=True)}
        for name, own in rows.groupby("variant")
    }
    nfes = {
        name: [int(n) for n in own["nfe"].dropna().unique()]
        for name, own in results.groupby("variant")
    }
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for entry in variants:
        if entry.get("trial_of"):
            by_variant.setdefault(str(entry["trial_of"]), []).append(entry)
    return {
        variant: [
            Trial(
                variant,
                number,
                str(entry["name"]),
                {key: entry["settings"].get(key) for key in _varied(entries)},
                {n: values.get(entry["name"], {}).get(n, math.nan)
                 for n in nfes.get(entry["name"], [])},
            )
            for number, entry in enumerate(entries)
        ]
        for variant, entries in by_variant.items()
    }  # fmt: skip


def _varied(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that differ between trials."""
    keys = list(dict.fromkeys(key for entry in entries for key in entry["settings"]))
    first = entries[0]["settings"]
    return [k for k in keys if any(e["settings"].get(k) != first.get(k) for e in entries[1:])]


def choose(trials: Sequence[Trial], higher: bool, nfe: int | None = None) -> Choice | None:
    """The best trial, the earlier of equals; None if none came to its end.

    Args:
        trials: of one variant.
        higher: whether more of the metric is better.
        nfe: where it is to be best; None: in the geometric mean over all NFEs.
    """
    best: Choice | None = None
    for trial in trials:
        value = trial.values.get(nfe, math.nan) if nfe is not None else _mean(trial.values)
        if math.isfinite(value) and (
            best is None or (value - best.value) * (1 if higher else -1) > 0
        ):
            best = Choice(trial, nfe, value)
    return best


def _mean(values: Mapping[int, float]) -> float:
    """The geometric mean of positive values; of one value, itself."""
    found = list(values.values())
    if len(found) == 1:
        return found[0]
    if not found or not all(value > 0 for value in found):
        return math.nan
    return math.exp(math.fsum(map(math.log, found)) / len(found))


@dataclass(frozen=True)
class Trials:
    """What a run of trials found."""

    name: str
    """The run's."""
    trials: dict[str, list[Trial]]
    """By variant, in order."""
    metric: str
    """That decides."""
    higher: bool
    """Whether more of it is better."""
    elastic: dict[str, bool]
    """Whether one training serves all NFEs, by variant."""

    def choices(self, variant: str) -> list[Choice]:
        """What was chosen for a variant: for all its NFEs, or for each."""
        own = self.trials[variant]
        nfes = sorted({nfe for trial in own for nfe in trial.values})
        if len(nfes) < 2 or self.elastic[variant]:
            found = [choose(own, self.higher)]
        else:
            found = [choose(own, self.higher, nfe) for nfe in nfes]
        return [choice for choice in found if choice is not None]


def trials_of_run(results: Any, info: dict[str, Any]) -> Trials:
    """The trials of a run, from its table and facts."""
    primary = info["primary"]
    found = trials_in(
        results, info["variants"], primary["question"], primary["extractor"], primary["quality"]
    )
    serves = dict(zip(results["variant"], results["serves"], strict=True))
    several = {name: "," in str(serves.get(own[0].name, "")) for name, own in found.items()}
    metric = primary["quality"]
    higher = bool(all_metrics()[metric].higher_is_better)
    return Trials(str(info["name"]), found, metric, higher, several)
