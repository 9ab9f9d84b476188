"""Ratios to a control, a row for each series: single ones small, what they give together large."""

from __future__ import annotations

from collections.abc import Mapping

from piflow_reports.figures.base import (
    INK,
    Drawing,
    blank,
    heading,
    log_axis,
    marker,
    numbers,
    safe,
)
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

from piflow_bench.evaluation.uncertainty import Interval

Ratios = Mapping[str, tuple[Interval, Mapping[str, Interval]]]
"""By series: the ratio of all together, and those of the parts by their names."""


def draw(ratios: Ratios, looks: dict[str, Style], title: str) -> tuple[Drawing, int]:
    """The figure, ×1 dashed, with its height in pixels."""
    height = 96 + 34 * len(ratios)
    figure = blank(title, "", height)
    figure.add_scatter(
        x=[1, 1], y=[-0.5, len(ratios) - 0.5], mode="lines", hoverinfo="skip",
        line={"color": INK, "dash": "dash", "width": 1.2},
    )  # fmt: skip
    ends = [1.0]
    for place, (series, (whole, each)) in enumerate(ratios.items()):
        look, known = looks[series], words.finite(whole.low)
        figure.add_scatter(
            x=numbers([found.value for found in each.values()]), y=[place - 0.22] * len(each),
            mode="markers", name=safe(series), meta=series,
            marker={**marker(look, 6), "opacity": 0.5},
            text=[f"{heading(series)}, {safe(words.short(g, 60))}<br>{_said(found)}"
                  for g, found in each.items()],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        bars = {
            "type": "data", "symmetric": False, "array": [whole.high - whole.value],
            "arrayminus": [whole.value - whole.low], "thickness": 1.4, "width": 4,
            "color": look.colour,
        }  # fmt: skip
        figure.add_scatter(
            x=[whole.value], y=[place + 0.12], mode="markers", name=safe(series), meta=series,
            marker=marker(look, 12), error_x=bars if known else None,
            text=[f"{heading(series)}<br>{_said(whole)}"],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        ends += [found.value for found in each.values()]
        ends += [whole.low, whole.high] if known and whole.low > 0 else [whole.value]
    figure.update_yaxes(
        tickvals=list(range(len(ratios))), autorange="reversed", showgrid=False, ticks="",
        ticktext=[safe(name) for name in words.shortened(list(ratios), 18)],
    )  # fmt: skip
    # A log axis of less than this has hardly a label.
    if min(ends) > 0 and max(ends) > 4 * min(ends):
        figure.update_xaxes(**log_axis(min(ends), max(ends)))
    return figure, height


def cells(found: Interval) -> list[str]:
    """A ratio and its interval for the table below a figure."""
    places = words.decimals([found.value], [(found.high - found.low) / 2])
    span = words.span(found.low, found.high, places)
    return ["×" + words.fixed(found.value, places), span or words.MISSING]


def _said(found: Interval) -> str:
    return " ".join(text for text in cells(found) if text != words.MISSING)
