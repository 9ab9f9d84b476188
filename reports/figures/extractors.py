"""Fréchet distances under several kinds of features, each over that of a control."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.series import CEILING, REAL, measured
from piflow_reports.figures.base import Figure, spec
from piflow_reports.figures.ratio_rows import cells, draw
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

from piflow_bench.evaluation.inference.ranks import LEAST, kendall
from piflow_bench.evaluation.inference.ratios import mean_ratio
from piflow_bench.evaluation.uncertainty import Interval

METRIC = "fd"
CONTROLS = {
    "data": (REAL, "FD(generated, held-out) over FD(other real, held-out), at one n"),
    "imitation": (CEILING, "FD over that of the converged teacher redrawn, at one n"),
}
"""What a question's distances are divided by, and how the page says so."""
Cells = dict[str, dict[str, Any]]
"""Rows of one series by extractor."""


def ratios(
    summary: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, Style],
    order: list[str],
    prefix: str,
) -> list[Figure]:
    """Each series' distance over its control's, by kind of features and on average over them."""
    rows = measured(summary)
    rows = rows[rows["metric"] == METRIC]
    found = []
    for question, (control, meaning) in CONTROLS.items():
        own = rows[rows["question"] == question]
        tops = _by_extractor(own[(own["variant"] == control) & (own["value"] > 0)])
        if len(tops) < 2:
            continue
        for nfe in nfes:
            here = own[(own["nfe"] == nfe) & (own["role"] != "control")]
            series = {
                name: _by_extractor(here[here["series"] == name]) for name in order if name in looks
            }
            whole = {name: each for name, each in series.items() if _like(each, tops)}
            if whole:
                tracks = dict(zip(here["series"], here["track"], strict=True))
                students = set(here.loc[here["role"] == "student", "series"])
                by_track: dict[str, list[Cells]] = {}
                for name in (n for n in whole if n in students):
                    by_track.setdefault(tracks[name], []).append(whole[name])
                key = f"{prefix}ratio-{question}-{nfe}"
                caption = f"{meaning}. {_agreed(by_track, list(tops))}"
                found.append(_figure(whole, tops, question, nfe, looks, key, caption))
    return found


def _by_extractor(rows: pd.DataFrame) -> Cells:
    return {str(row["extractor"]): row for row in rows.to_dict("records")}  # type: ignore[misc]


def _like(each: Cells, tops: Cells) -> bool:
    """Whether there is a distance for every control, by the same rules."""
    return all(e in each and each[e]["protocol"] == top["protocol"] for e, top in tops.items())


def _agreed(by_track: dict[str, list[Cells]], extractors: list[str]) -> str:
    """How far the features rank the students of a track alike, in words."""
    said = []
    for track, students in sorted(by_track.items()):
        if len(students) < LEAST:
            continue
        values = {e: np.array([cell[e]["value"] for cell in students]) for e in extractors}
        taus = [float(kendall(values[a], values[b])) for a, b in combinations(extractors, 2)]
        label = f" ({words.TRACKS.get(track, track).lower()})" if len(by_track) > 1 else ""
        ends = "" if min(taus) == max(taus) else f" on average ({min(taus):.2f} to {max(taus):.2f})"
        said.append(f"{np.mean(taus):.2f}{ends}{label}".replace("-", "−"))
    if not said:
        return ""
    return f"Kendall's tau between the features' orders of the students: {'; '.join(said)}."


def _figure(
    whole: dict[str, Cells],
    tops: Cells,
    question: str,
    nfe: int,
    looks: dict[str, Style],
    key: str,
    caption: str,
) -> Figure:
    shown: dict[str, tuple[Interval, dict[str, Interval]]] = {}
    table = []
    for name, each in whole.items():
        single = {e: mean_ratio([each[e]], [top]) for e, top in tops.items()}
        mean = mean_ratio([each[e] for e in tops], list(tops.values()))
        shown[name] = (mean, single)
        table.append([name, *cells(mean), *(" ".join(cells(s)) for s in single.values())])
    figure, height = draw(shown, looks, "FD ratio")
    label = words.QUESTIONS.get(question, question).lower()
    divisors = ", ".join(f"{e} {words.figures(top['value'])}" for e, top in tops.items())
    return Figure(
        key,
        f"FD ratio over {len(tops)} kinds of features, {label}, {nfe} NFE",
        f"{caption} Large marks: the mean over features, bars 95 % intervals; small: each. "
        f"Divisors: {divisors}.",
        spec(figure),
        height,
        ["Variant", "Mean ratio", "95 % interval", *tops],
        table,
        words.metric(METRIC).meaning,
    )
