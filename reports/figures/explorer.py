"""The figure whose axes the reader chooses: every measure of every series, as data for the page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.series import Primary, measured
from piflow_reports.figures.base import safe
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

Measure = tuple[str, str, str, str]
COSTS = {
    "nfe": "NFE",
    "train_tfe": "Training compute (TFE)",
    "flops_per_sample": "FLOPs per sample",
    "sample_seconds": "Seconds per sample",
}


def explorer(
    summary: pd.DataFrame,
    costs: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, Style],
    order: list[str],
    primary: Primary,
) -> dict[str, Any] | None:
    """Choices of the axes, and the JSON from which the page draws; None without two measures."""
    rows = measured(summary)
    rows = rows[rows["series"].isin(looks) & rows["nfe"].isin(nfes)]
    measures = _measures(rows, primary)
    if len(measures) < 2:
        return None
    place = {measure: i for i, measure in enumerate(measures)}
    points: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows.to_dict("records"):
        key = (row["series"], int(row["nfe"]))
        i = place.get((row["question"], row["extractor"], row["metric"], row["protocol"]))
        if i is not None:
            values = [_short(row[name]) for name in ("value", "low", "high")]
            points.setdefault(key, {})[str(i)] = [*values, _count(row["n"])]
    for row in costs.to_dict("records"):
        own = points.get((row["series"], int(row["nfe"]))) if words.finite(row["nfe"]) else None
        for name in COSTS:
            if own is not None and words.finite(row[name]) and row[name] > 0:
                own[name] = [_short(row[name])]
    known = {name for own in points.values() for name in own if name in COSTS}
    tracks = dict(zip(rows["series"], rows["track"], strict=True))
    series = [name for name in order if name in {s for s, _ in points}]
    data = {
        "measures": {
            **{str(i): {"label": _label(m), "higher": _higher(rows, m), "protocol": m[3][:12]}
               for i, m in enumerate(measures)},
            **{name: {"label": COSTS[name], "higher": None} for name in COSTS if name in known},
        },
        "series": [
            {"name": name, "shown": safe(words.short(name, 60)), "colour": looks[name].colour,
             "symbol": looks[name].marker, "dash": looks[name].dash, "track": tracks[name],
             "at": {str(n): points[name, n] for n in nfes if (name, n) in points}}
            for name in series
        ],
    }  # fmt: skip
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    choices = [(str(i), _label(m)) for i, m in enumerate(measures)]
    choices += [(name, COSTS[name]) for name in COSTS if name in known]
    start = [primary.diversity, primary.quality]
    chosen = [next((str(i) for i, m in enumerate(measures) if m[2] == s), "0") for s in start]
    if chosen[0] == chosen[1]:
        chosen[0] = "1" if chosen[1] == "0" else "0"
    return {"choices": choices, "x": chosen[0], "y": chosen[1], "nfes": nfes, "data": text}


def _measures(rows: pd.DataFrame, primary: Primary) -> list[Measure]:
    """The measures there are: the primary question and features first, in the page's order."""
    keys = ["question", "extractor", "metric", "protocol"]
    found = {tuple(map(str, r)) for r in rows[keys].drop_duplicates().itertuples(index=False)}
    order = {m: i for i, m in enumerate([primary.quality, primary.diversity, *words.LABELS])}
    return sorted(
        (m for m in found if not m[2].endswith("_std")),
        key=lambda m: (
            m[0] != primary.question,
            m[1] not in (primary.extractor, "samples"),
            order.get(m[2], len(order)),
            m,
        ),
    )  # type: ignore[return-value]


def _label(measure: Measure) -> str:
    question, extractor, metric, _ = measure
    about = ", ".join(p for p in (words.QUESTIONS.get(question, question).lower(), extractor) if p)
    return f"{words.metric(metric).label} ({about})"


def _higher(rows: pd.DataFrame, measure: Measure) -> bool | None:
    own = rows.loc[rows["metric"] == measure[2], "higher"]
    first = own.iloc[0] if len(own) else None
    return None if first is None else bool(first)


def _short(value: float) -> float | None:
    """Five figures: the page shows fewer."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _count(n: float) -> int:
    return int(n) if words.finite(n) else 0
