"""Sensitivity: what the metric that decides was in every trial, against each setting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.figures.base import (
    INK,
    Figure,
    axis_title,
    blank,
    heading,
    log_axis,
    log_y,
    numbers,
    spec,
)
from piflow_reports.format import names as words
from piflow_reports.sections.trials import settings, words_of

from piflow_bench.tuning.choice import Trial, Trials

CHOSEN, PUBLISHED = "#0f766e", "#b45309"
WIDE = 20
"""Ratio of a setting's values from which on its axis is logarithmic."""


def sensitivity(trials: Trials, prefix: str) -> list[Figure]:
    """A figure for each setting of each variant; those of one variant stand together."""
    found = []
    for variant, own in trials.trials.items():
        best = {choice.trial.name for choice in trials.choices(variant)}
        for name in own[0].settings:
            figure = _figure(trials, own, name, best, f"{prefix}trial-{variant}-{name}")
            if figure is not None:
                found.append(figure)
    return found


def _figure(trials: Trials, own: list[Trial], name: str, best: set[str], key: str) -> Figure | None:
    ended = [(trial, nfe, value) for trial in own for nfe, value in trial.values.items()
             if np.isfinite(value)]  # fmt: skip
    if len(ended) < 2:
        return None
    label = words.metric(trials.metric).label
    figure = blank(name, axis_title(trials.metric, trials.higher), 260)
    places = [trial.settings.get(name) for trial, _, _ in ended]
    is_number = all(isinstance(p, int | float) and not isinstance(p, bool) for p in places)
    across: list[Any] = places if is_number else [words_of(p) for p in places]
    table = []
    for (trial, nfe, value), x in zip(ended, across, strict=True):
        published, chosen = trial.number == 0, trial.name in best
        figure.add_scatter(
            x=[x], y=[value], mode="markers",
            name="published recipe" if published else trial.name,
            marker={
                "symbol": "star" if published else "circle" if chosen else "circle-open",
                "size": 14 if published else 11 if chosen else 8,
                "color": CHOSEN if chosen else PUBLISHED if published else INK,
            },
            text=[f"{heading(trial.name)}<br>{label} {words.figures(value)}, {nfe} NFE<br>"
                  + settings(trial.settings).replace(", ", "<br>")],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        mark = "published" if published else ""
        mark = f"{mark}, chosen".lstrip(", ") if chosen else mark
        table.append([trial.name, words_of(trial.settings.get(name)), str(nfe),
                      words.figures(value), mark])  # fmt: skip
    if not is_number:
        figure.update_xaxes(type="category")
    elif min(places) > 0 and max(places) / min(places) > WIDE:
        figure.update_xaxes(**log_axis(min(places), max(places)))
    log_y(figure, pd.Series(numbers([value for _, _, value in ended]), dtype=float), trials.higher)
    return Figure(
        key,
        f"{own[0].variant}: {name}",
        "Star: the published recipe; filled: chosen. All other settings vary, too.",
        spec(figure),
        260,
        ["Trial", name, "NFE", label, ""],
        table,
    )
