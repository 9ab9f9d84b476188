"""Whether the order of the students holds: with another train seed, budget unit, or features."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from piflow_reports.data.series import Primary, measured, select
from piflow_reports.format import names as words

from piflow_bench.evaluation.inference.ranks import (
    LEAST,
    by_seed,
    kendall,
    redrawn_tau,
    redraws,
    tau_of_seeds,
)
from piflow_bench.evaluation.uncertainty import Interval

TFE = "budget_tfe"
UNITS = {"train_steps": "updates", "train_seconds": "wall seconds", "train_images": "samples seen"}
"""What a budget can be counted in beside TFE."""


class Tau(NamedTuple):
    """Kendall's tau as shown."""

    text: str
    span: str
    students: int


def _shown(found: Interval, students: int) -> Tau:
    return Tau(words.fixed(found.value, 2), words.span(found.low, found.high, 2), students)


def agreement(
    summary: pd.DataFrame, by_budget: pd.DataFrame, nfes: list[int], primary: Primary
) -> list[dict[str, Any]]:
    """Kendall's tau-b of two orders of a track's students, per NFE, in each primary metric.

    From three students on; below, a rank correlation says nothing. ``summary``: at the full
    budget; ``by_budget``: at all checkpoints, in the primary question.
    """
    rows = measured(summary)
    rows = rows[
        (rows["role"] == "student") & rows["metric"].isin([primary.quality, primary.diversity])
    ]
    way = measured(by_budget) if len(by_budget) else by_budget
    taus: dict[tuple[str, str, str, str], dict[int, Tau]] = {}
    parts = (_seeds(rows, nfes, primary), _budgets(way, nfes, primary))
    for key, nfe, tau in chain(*parts, _features(rows, nfes, primary)):
        taus.setdefault(key, {})[nfe] = tau
    kinds = list(dict.fromkeys(between for between, *_ in taus))
    several = len({track for _, _, track, _ in taus}) > 1
    ordered = sorted(
        taus, key=lambda k: (kinds.index(k[0]), k[1] != primary.question, k[2],
                             k[3] != primary.quality)
    )  # fmt: skip
    return [{"between": key[0], "of": _of(*key[1:], several), "taus": taus[key]} for key in ordered]


def _of(question: str, track: str, metric: str, several: bool) -> str:
    """What is ordered by what, in words; the track where there are ``several``."""
    parts = [words.metric(metric).label, words.QUESTIONS.get(question, question).lower()]
    return ", ".join(parts + [words.TRACKS.get(track, track).lower()] * several)


Found = Iterator[tuple[tuple[str, str, str, str], int, Tau]]
"""(between, question, track, metric), NFE, tau."""


def _groups(
    rows: pd.DataFrame, nfes: list[int], primary: Primary
) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """Track, metric, NFE and rows of the primary question and features."""
    if not len(rows):
        return
    for metric in dict.fromkeys((primary.quality, primary.diversity)):
        chosen = select(rows, primary.question, metric, primary.extractor)
        for (track, nfe), group in chosen.groupby(["track", "nfe"], sort=True):
            if nfe in nfes:
                yield str(track), metric, int(nfe), group


def _seeds(rows: pd.DataFrame, nfes: list[int], primary: Primary) -> Found:
    """Between the orders of two train seeds, on average over the pairs."""
    for track, metric, nfe, group in _groups(rows, nfes, primary):
        cells = group.drop_duplicates("series").to_dict("records")
        values = by_seed(cells) if len(cells) >= LEAST else None
        if values is not None:
            found = tau_of_seeds(values)
            if words.finite(found.value):
                key = ("two train seeds", primary.question, track, metric)
                yield key, nfe, _shown(found, len(cells))


def _budgets(rows: pd.DataFrame, nfes: list[int], primary: Primary) -> Found:
    """Between the orders at equal TFE and at equal amounts of another unit."""
    for track, metric, nfe, group in _groups(rows, nfes, primary):
        ways = _ways(group)
        at_tfe = {name: _reading(way, TFE, ways) for name, way in ways.items()}
        for unit, label in UNITS.items():
            at_unit = {name: _reading(way, unit, ways) for name, way in ways.items()}
            known = [n for n in ways if at_tfe[n] is not None and at_unit[n] is not None]
            if len(known) < LEAST:
                continue
            first, second = (
                np.array([side[name] for name in known]) for side in (at_tfe, at_unit)
            )  # Weights of the checkpoints, (s, c).
            values = np.array([[cell["value"] for cell in ways[name]] for name in known])
            drawn = redraws([ways[name] for name in known])
            found = redrawn_tau(
                (first * values).sum(-1),
                (second * values).sum(-1),
                ((first * drawn).sum(-1), (second * drawn).sum(-1)),
            )
            if words.finite(found.value):
                between = f"budgets in TFE and in {label}"
                key = (between, primary.question, track, metric)
                yield key, nfe, _shown(found, len(known))


def _ways(group: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Each student's checkpoints in order, as many of each and all of one sample count.

    Distances of fewer samples are larger, so that checkpoints of another count say nothing of the
    way between these.
    """
    if not (group[TFE] > 0).any():
        return {}
    counts = group.groupby("n")["budget_fraction"].nunique()
    chosen = group[(group["n"] == counts[counts == counts.max()].index.max()) & (group[TFE] > 0)]
    ways = {
        str(name): own.sort_values("budget_fraction").to_dict("records")
        for name, own in chosen.groupby("series", sort=True)
    }
    most = max(map(len, ways.values()), default=0)
    return {name: way for name, way in ways.items() if len(way) == most > 1}


def _reading(
    way: list[dict[str, Any]], unit: str, ways: dict[str, list[dict[str, Any]]]
) -> np.ndarray | None:
    """Weights ``(c,)`` of a student's checkpoints for its value at the common budget.

    That is the largest amount that every student has reached; between checkpoints the line is
    straight in the amount's logarithm. None where the first checkpoint lies beyond it.
    """
    ends = [float(other[-1][unit]) for other in ways.values()]
    amounts = np.array([float(cell[unit]) for cell in way])
    common = min(ends)
    if not (np.isfinite(ends).all() and np.isfinite(amounts).all() and amounts.min() > 0):
        return None
    if common < amounts[0] or (np.diff(amounts) <= 0).any():
        return None
    at, places = np.log(common), np.log(amounts)
    return np.array([np.interp(at, places, one) for one in np.eye(len(way))])


def _features(rows: pd.DataFrame, nfes: list[int], primary: Primary) -> Found:
    """Between the orders of two kinds of features."""
    for key, group in rows.groupby(["question", "track", "metric"], sort=True):
        question, track, name = map(str, key)  # type: ignore[arg-type]
        names = sorted(set(group["extractor"]), key=lambda e: (e != primary.extractor, e))
        for other in names[1:]:
            for nfe in nfes:
                at = group[group["nfe"] == nfe]
                sides = [
                    {row["series"]: row for row in at[at["extractor"] == e].to_dict("records")}
                    for e in (names[0], other)
                ]
                both = sorted(set(sides[0]) & set(sides[1]))
                if len(both) < LEAST:
                    continue
                cells = [[side[series] for side in sides] for series in both]
                drawn = redraws(cells)
                a, b = (np.array([pair[i]["value"] for pair in cells]) for i in (0, 1))
                found = redrawn_tau(a, b, (drawn[..., 0], drawn[..., 1]))
                if words.finite(found.value):
                    between = f"features: {names[0]} and {other}"
                    yield (between, question, track, name), nfe, _shown(found, len(both))


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
                if len(joint) >= LEAST:
                    tau = float(kendall(*joint.to_numpy(dtype=float).T))
                    if words.finite(tau):
                        taus[a, b] = (tau, len(joint))
        label = words.TRACKS.get(str(track), str(track)).lower() if len(tracks) > 1 else ""
        if taus:
            found.append((label, names, taus))
    return found
