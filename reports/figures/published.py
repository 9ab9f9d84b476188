"""Published numbers as marks in figures: shown beside what was measured, never compared with it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from piflow_reports.data.series import Primary
from piflow_reports.figures.base import Drawing, safe

METRICS = {
    "fid": ("fd", "inception"),
    "sfid": ("sfd", "inception"),
    "is": ("is", "inception"),
    "precision": ("precision", "inception"),
    "recall": ("recall", "inception"),
    "cmmd": ("cmmd", "clip"),
}
"""What papers call the harness's metrics, and the extractor that they mean; against real data.

KID has no mark: papers print it times 1,000 and over subsets of their own.
"""
NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Mark(NamedTuple):
    """A published number that has a place in a figure."""

    nfe: int
    value: float
    text: str
    label: str
    about: str


def marks(references: list[Any], primary: Primary, metric: str) -> list[Mark]:
    """Published numbers of ``metric``; none where the figure asks or looks at something else.

    A range such as "1.70 to 1.76" stands at its middle.
    """
    if primary.question != "data":
        return []
    found = []
    for each in references:
        if not isinstance(each, dict):
            continue
        name = str(each.get("metric", "")).lower().split("-")[0]
        text = str(each.get("value", ""))
        values = [float(number) for number in NUMBER.findall(text)]
        nfe = each.get("nfe")
        meant = METRICS.get(name)
        if (
            meant != (metric, primary.extractor)
            or not values
            or not isinstance(nfe, int)
            or nfe < 1
        ):
            continue
        about = "; ".join(str(each[k]) for k in ("source", "note") if each.get(k))
        label = f"{each.get('method', '')} (published)"
        found.append(Mark(nfe, sum(values) / len(values), text, label, about))
    return found


def draw(figure: Drawing, found: list[Mark]) -> None:
    """Add the marks as one trace, which the page's switch finds by its ``meta``."""
    figure.add_scatter(
        x=[m.nfe for m in found], y=[m.value for m in found], mode="markers", name="published",
        meta="published:", marker={"symbol": "star-open", "size": 11, "color": "#808a94"},
        text=[f"<b>{safe(m.label)}</b><br>{safe(m.text)}<br>{safe(m.about)}" for m in found],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
