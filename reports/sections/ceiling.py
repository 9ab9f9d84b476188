"""Two summaries of the rankings: distance to the ceiling, and whether the extractors agree."""

from __future__ import annotations

from typing import Any

import pandas as pd
from piflow_reports.data.series import CEILING, Primary, measured, select
from piflow_reports.format import names as words
from piflow_reports.sections.rankings import Cell, Row
from scipy.stats import kendalltau

from piflow_bench.evaluation.inference.ratios import FRECHET, NEAR, ratio_interval
from piflow_bench.evaluation.uncertainty import Interval


def ceiling(
    summary: pd.DataFrame, nfes: list[int], order: list[str], primary: Primary
) -> dict[str, Any] | None:
    """Ratios to the converged teacher in the imitation distance and in its recall."""
    question = "imitation" if "imitation" in set(summary["question"]) else primary.question
    parts = []
    for name in dict.fromkeys((primary.quality, primary.diversity)):
        rows = measured(select(summary, question, name, primary.extractor))
        tops = rows[rows["variant"] == CEILING]
        if len(tops) == 1 and float(tops["value"].iloc[0]) > 0:
            parts.append((name, rows[rows["variant"] != CEILING], tops.iloc[0]))
    if not parts or not any((rows["role"] == "student").any() for _, rows, _ in parts):
        return None
    ratios = {
        (name, index): ratio_interval(row, top)
        for name, rows, top in parts
        for index, row in zip(rows.index, rows.to_dict("records"), strict=True)
    }
    places = {
        name: words.decimals(
            [found.value for (of, _), found in ratios.items() if of == name],
            [(found.high - found.low) / 2 for (of, _), found in ratios.items() if of == name],
        )
        for name, *_ in parts
    }
    body: list[Row] = []
    for series in order:
        cells = []
        role = ""
        for name, rows, top in parts:
            own = rows[(rows["series"] == series) & (rows["role"] != "control")]
            role = str(own["role"].iloc[0]) if len(own) else role
            for nfe in nfes:
                here = own[(own["nfe"] == nfe) & (own["protocol"] == top["protocol"])]
                found = ratios[name, here.index[0]] if len(here) else None
                cells.append(_ratio(found, name, places[name]) if found else Cell())
        if any(words.finite(cell.value) for cell in cells):
            body.append(Row(series, "", role, 0, cells))
    heads = [
        {
            "label": words.metric(name).label,
            "meaning": words.metric(name).meaning,
            "arrow": words.arrow(top["higher"]),
            "ceiling": words.figures(float(top["value"]), 3),
        }
        for name, _, top in parts
    ]
    return {"heads": heads, "nfes": nfes, "rows": body}


def _ratio(found: Interval, name: str, places: int) -> Cell:
    span = words.span(found.low, found.high, places)
    note = "" if span else found.method
    if span and name in FRECHET and found.value < NEAR:
        note = (
            f"below {NEAR:g} times the ceiling: intervals about 1.5 times too wide, tests nearly "
            "powerless"
        )
    return Cell(found.value, "×" + words.fixed(found.value, places), span, note=note)


def agreement(summary: pd.DataFrame, nfes: list[int], primary: Primary) -> list[dict[str, Any]]:
    """Kendall's tau-b between two extractors' rankings of a track's students, per NFE and metric.

    From three students on; below, a rank correlation says nothing.
    """
    rows = measured(summary)
    rows = rows[
        (rows["role"] == "student") & rows["metric"].isin([primary.quality, primary.diversity])
    ]
    found = []
    for key, group in rows.groupby(["question", "track", "metric"], sort=True):
        question, track, name = map(str, key)  # type: ignore[arg-type]
        names = sorted(set(group["extractor"]), key=lambda e: (e != primary.extractor, e))
        for other in names[1:]:
            taus = {}
            for nfe in nfes:
                at = group[group["nfe"] == nfe]
                both = [
                    at[at["extractor"] == e].drop_duplicates("series").set_index("series")["value"]
                    for e in (names[0], other)
                ]
                joint = pd.concat(both, axis=1, join="inner")
                if len(joint) >= 3:
                    tau = kendalltau(joint.iloc[:, 0], joint.iloc[:, 1]).statistic
                    taus[nfe] = (words.fixed(float(tau), 2), len(joint))
            if taus:
                found.append(
                    {
                        "question": words.QUESTIONS.get(question, question),
                        "track": words.TRACKS.get(track, track),
                        "metric": words.metric(name).label,
                        "pair": f"{names[0]} and {other}",
                        "taus": taus,
                    }
                )
    return found


Taus = dict[tuple[str, str], tuple[float, int]]


def rank_agreement(
    summary: pd.DataFrame, nfe: int, primary: Primary
) -> list[tuple[str, list[str], Taus]]:
    """Per track: its name, the rankings by question and features, tau and students of each pair.

    In the primary quality metric, of at least three students; the name is empty for a single track.
    """
    rows = measured(summary)
    rows = rows[
        (rows["role"] == "student") & (rows["metric"] == primary.quality) & (rows["nfe"] == nfe)
    ]
    tracks = list(rows.groupby("track", sort=True))
    found = []
    for track, group in tracks:
        rankings = {
            f"{words.QUESTIONS.get(str(q), str(q))}, {e}": own.drop_duplicates("series")
            .set_index("series")["value"]
            for (q, e), own in group.groupby(["question", "extractor"], sort=True)
        }  # fmt: skip
        names = list(rankings)
        taus: Taus = {}
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                joint = pd.concat([rankings[a], rankings[b]], axis=1, join="inner")
                if len(joint) >= 3:
                    tau = float(kendalltau(joint.iloc[:, 0], joint.iloc[:, 1]).statistic)
                    if words.finite(tau):
                        taus[a, b] = (tau, len(joint))
        label = words.TRACKS.get(str(track), str(track)).lower() if len(tracks) > 1 else ""
        if taus:
            found.append((label, names, taus))
    return found
