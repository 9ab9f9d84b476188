"""What trials chose, of a run that ``tune`` made: a table, for page, terminal and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from piflow_reports.data.run import Run
from piflow_reports.format import names as words

from piflow_bench.tuning.choice import Choice, Trial, Trials, trials_of_run

NOTE = (
    "Trials choose settings, on seeds and a reference that results never use; variants are not "
    "compared by them."
)


@dataclass(frozen=True)
class Row:
    """What was chosen for a variant."""

    variant: str
    at: str
    """At which NFEs its trials were sampled."""
    count: str
    """Trials that came to their end, of those that were begun."""
    published: str
    """The metric's value of the published recipe."""
    best: str
    worst: str
    trial: str
    """The best one's name."""
    settings: str
    """Its own, in words."""


def trials_of(run: Run) -> Trials | None:
    """The trials of a run; None of one that is no choice of settings."""
    if not any(variant.get("trial_of") for variant in run.info.get("variants") or []):
        return None
    return trials_of_run(run.results, run.info)


def rows(trials: Trials) -> list[Row]:
    """A row for every choice."""
    return [row for name in trials.trials for row in _rows(trials, name)]


def _rows(trials: Trials, variant: str) -> list[Row]:
    own = trials.trials[variant]
    found = trials.choices(variant)
    if not found:
        return [Row(variant, "", f"0 of {len(own)}", *[words.MISSING] * 5)]
    return [_row(own, choice) for choice in found]


def _row(own: list[Trial], choice: Choice) -> Row:
    values = [_value(trial, choice) for trial in own]
    known = [value for value in values if np.isfinite(value)]
    farthest = max(known, key=lambda value: abs(value - choice.value))
    nfes = [choice.nfe] if choice.nfe is not None else list(choice.trial.values)
    return Row(
        choice.trial.variant,
        ", ".join(map(str, nfes)),
        f"{len(known)} of {len(own)}",
        words.figures(values[0]),
        words.figures(choice.value),
        words.figures(farthest),
        choice.trial.name,
        settings(choice.trial.settings) if choice.trial.number else "the published recipe",
    )


def _value(trial: Trial, choice: Choice) -> float:
    """What decided, of another trial."""
    from piflow_bench.tuning.choice import choose

    alone = choose([trial], True, choice.nfe)
    return alone.value if alone else float("nan")


def settings(own: Mapping[str, Any]) -> str:
    """Settings in words."""
    return ", ".join(f"{name} {words_of(value)}" for name, value in own.items())


def words_of(value: Any) -> str:
    """A setting's value in words."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
