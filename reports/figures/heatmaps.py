"""Heatmaps: the students' paired differences, and how far kinds of features agree on ranks."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from piflow_reports.data.series import Primary
from piflow_reports.figures.base import Drawing, Figure, blank, heading, safe, spec
from piflow_reports.format import names as words
from piflow_reports.sections.agreement import rank_agreement

BLUE, ORANGE = "#4a9cd0", "#e8843c"  # Light enough for the dark numbers on them.
NUMBERED = 10
"""Most rows of a map whose cells have room for their numbers."""


def differences(
    pairs: pd.DataFrame, order: list[str], primary: Primary, prefix: str
) -> list[Figure]:
    """Heatmaps of the paired differences of all students, one per primary metric and NFE."""
    found: list[Figure] = []
    if not len(pairs):
        return found
    tracks = list(dict.fromkeys(pairs["track"]))
    for name in dict.fromkeys((primary.quality, primary.diversity)):
        own = pairs[pairs["metric"] == name]
        for (nfe, track), here in own.groupby(["nfe", "track"], sort=True):
            members = set(here["a"]) | set(here["b"])
            names = [s for s in order if s in members]
            if len(names) < 3:  # One pair is a sentence, not a map.
                continue
            told = words.TRACKS.get(track, track).lower() if len(tracks) > 1 else ""
            number = tracks.index(track)
            made = _heatmap(here, names, name, int(nfe), prefix + (f"t{number}-" if number else ""))
            found.append(replace(made, title=made.title + (f", {told}" if told else "")))
    return found


def _heatmap(pairs: pd.DataFrame, names: list[str], metric: str, nfe: int, prefix: str) -> Figure:
    gap, shown, text, table = {}, {}, {}, []
    for row in pairs.to_dict("records"):
        places = words.decimals([row["difference"]], [(row["high"] - row["low"]) / 2])
        span = words.span(row["low"], row["high"], places)
        apart = "told apart" if row["significant"] else "not told apart"
        apart = apart if row["family"] else "described"
        table.append([row["a"], row["b"], words.fixed(row["difference"], places), span, apart])
        for a, b, sign in ((row["a"], row["b"], 1), (row["b"], row["a"], -1)):
            low, high = sorted((sign * row["low"], sign * row["high"]))
            value = sign * row["difference"]
            gap[a, b] = value if row["significant"] else 0.0
            shown[a, b] = words.fixed(value, places)
            text[a, b] = (
                f"{heading(a)} less {heading(b)}: {words.fixed(value, places)} "
                f"{words.span(low, high, places)}<br>{apart}"
            )
    largest = max((abs(v) for v in gap.values()), default=0.0)
    height = 110 + (30 if len(names) <= NUMBERED else 18) * len(names)
    figure = blank("", "", height)
    ticks = [safe(n) for n in words.shortened(names, 18)]
    figure.add_heatmap(
        z=[[gap.get((a, b)) for b in names] for a in names],
        x=list(range(len(names))), y=list(range(len(names))),
        text=[[shown.get((a, b), "") for b in names] for a in names],
        texttemplate="%{text}" if len(names) <= NUMBERED else None, textfont={"color": "#111"},
        hovertext=[[text.get((a, b), "") for b in names] for a in names],
        hovertemplate="%{hovertext}<extra></extra>", hoverongaps=False,
        zmin=-(largest or 1.0), zmax=largest or 1.0, xgap=2, ygap=2,
        colorscale=[[0, BLUE], [0.5, "#e8e8e8"], [1, ORANGE]], showscale=largest > 0,
        colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9},
    )  # fmt: skip
    _names(figure, ticks)
    coloured = (
        "Coloured where a pair of the declared family is told apart after Holm's correction; the "
        "others are described only."
    )
    label = words.metric(metric).label
    return Figure(
        f"{prefix}pairs-{metric}-{nfe}",
        f"{label} at {nfe} NFE: row less column",
        coloured if largest else "No pair is told apart; differences are described.",
        spec(figure),
        height,
        ["a", "b", "a − b", "95 % interval", "Verdict"],
        table,
    )


def _names(figure: Drawing, ticks: list[str]) -> None:
    """Name the rows and columns of a square map."""
    places = {"tickvals": list(range(len(ticks))), "ticktext": ticks, "showgrid": False}
    small = {"tickfont": {"size": 9}} if len(ticks) > NUMBERED else {}
    # On a phone slanted names of more columns would lie on each other.
    figure.update_xaxes(**places, **small, tickangle=-90 if len(ticks) > 6 else -30)
    figure.update_yaxes(**places, **small, autorange="reversed")
    figure.update_layout(margin={"l": 56, "r": 14, "t": 12, "b": 10})


def agreement(
    summary: pd.DataFrame, nfes: list[int], primary: Primary, prefix: str
) -> list[Figure]:
    """Kendall's tau between the rankings by every two questions and kinds of features."""
    found = []
    for nfe in nfes:
        for track, names, taus in rank_agreement(summary, nfe, primary):
            if len(names) < 2 or len(taus) < 1:
                continue
            table = [[a, b, f"{tau:.2f}", str(n)] for (a, b), (tau, n) in taus.items()]
            both = {**taus, **{(b, a): v for (a, b), v in taus.items()}}
            z = [[1.0 if a == b else both.get((a, b), (None, 0))[0] for b in names] for a in names]
            height = 120 + 34 * len(names)
            figure = blank("", "", height)
            figure.add_heatmap(
                z=z, x=list(range(len(names))), y=list(range(len(names))), zmin=-1, zmax=1,
                xgap=2, ygap=2, colorscale=[[0, ORANGE], [0.5, "#e8e8e8"], [1, BLUE]],
                text=[["" if v is None else words.fixed(v, 2) for v in row] for row in z],
                texttemplate="%{text}", textfont={"color": "#111"}, hoverongaps=False,
                hovertemplate="%{text}<extra></extra>",
                colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9},
            )  # fmt: skip
            _names(figure, [safe(n) for n in words.shortened(names, 22)])
            label = words.metric(primary.quality).label
            title = f"Rank agreement in {label} at {nfe} NFE"
            found.append(
                Figure(
                    f"{prefix}ranks-{nfe}-{len(found)}",
                    title + (f", {track}" if track else ""),
                    "Kendall's tau between two rankings of the same students: 1 the same order, "
                    "0 none, −1 the reverse.",
                    spec(figure),
                    height,
                    ["Ranking", "Ranking", "tau", "Students"],
                    table,
                )
            )
    return found
