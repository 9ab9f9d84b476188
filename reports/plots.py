"""What all figures share: the page's look for plotly, axes, markers and hover texts."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from piflow_reports import words
from piflow_reports.styles import Style

INK = "#6b7280"  # Replaced by the page's own ink through css; this suits both grounds.


@dataclass
class Figure:
    """A figure ready for the page."""

    id: str
    title: str
    caption: str
    spec: str
    height: int
    headers: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def safe(text: str) -> str:
    """A name as plotly shows it literally: plotly reads a subset of HTML."""
    return html.escape(text, quote=False)


def spec(figure: go.Figure) -> str:
    """The figure as JSON that is safe inside a script element."""
    content = figure.to_plotly_json()
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, default=_plain)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_number(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        return _number(value.item())
    raise TypeError(f"{type(value)} has no place in a figure")


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def numbers(values: Any) -> list[Any]:
    """A list with None for what is not finite."""
    return [_number(float(v)) for v in values]


def blank(x: str, y: str, height: int) -> go.Figure:
    """An empty figure in the page's style; the template is left out, for it weighs 7 kB."""
    axis: dict[str, Any] = {
        "showline": True, "linecolor": INK, "ticks": "outside", "ticklen": 4, "tickcolor": INK,
        "gridcolor": "rgba(128,128,128,.22)", "zeroline": False, "automargin": True,
    }  # fmt: skip
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "margin": {"l": 56, "r": 14, "t": 12, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12.5, "color": INK},
            "showlegend": False,
            "hovermode": "closest",
            "xaxis": {**axis, "title": {"text": x, "standoff": 8}},
            "yaxis": {**axis, "title": {"text": y, "standoff": 8}},
        }
    )


def error_bars(rows: pd.DataFrame) -> dict[str, Any]:
    """Error bars in plotly's terms, from a summary's intervals."""
    up, down = rows["high"] - rows["value"], rows["value"] - rows["low"]
    return {
        "type": "data", "symmetric": False, "array": numbers(up.fillna(0)),
        "arrayminus": numbers(down.fillna(0)), "thickness": 1.2, "width": 3,
    }  # fmt: skip


def marker(look: Style, size: int = 10) -> dict[str, Any]:
    """A series' marker."""
    return {
        "color": look.colour, "symbol": look.marker, "size": size,
        "line": {"width": 2 if look.hollow else 0.5, "color": look.colour},
    }  # fmt: skip


def bracket(row: pd.Series) -> str:
    """The interval with the places that its own width supports."""
    places = words.decimals([row["value"]], [(row["high"] - row["low"]) / 2])
    return words.span(row["low"], row["high"], places)


def hover(row: pd.Series) -> str:
    """What a point says when pointed at."""
    label = words.metric(row["metric"]).label
    seeds = f"{row['seeds']} train seed{'s' if row['seeds'] > 1 else ''}" if row["seeds"] else ""
    parts = [f"{label} {words.figures(row['value'], 4)} {bracket(row)}".strip(), seeds]
    return "<br>".join(p for p in parts if p)


def axis_title(name: str, higher: bool | None) -> str:
    """A metric's axis title, with the better direction."""
    hint = "" if higher is None else (" (higher is better)" if higher else " (lower is better)")
    return words.metric(name).label + hint


def wide(values: pd.Series, ratio: float = 8) -> bool:
    """Whether a log axis serves: positive values over a wide range."""
    good = values[np.isfinite(values)]
    return len(good) > 1 and bool((good > 0).all()) and good.max() / good.min() > ratio


def log_y(figure: go.Figure, values: pd.Series) -> None:
    """Make the y axis logarithmic where that serves."""
    if wide(values):
        figure.update_yaxes(**log_axis(values.min(), values.max()))


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A log axis with few, whole labels: plotly's own label every digit of a short axis."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    steps = (1, 2, 5) if high / low < 200 else (1, 3) if high / low < 2000 else (1,)
    ticks = [m * 10.0**e for e in range(first - 1, last + 1) for m in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [_tick(t) for t in ticks]}


def _tick(value: float) -> str:
    return words.compact(value) if value >= 1000 else f"{value:g}"


def side_of(row: pd.Series, side: str) -> pd.Series:
    """One metric's half of a merged row."""
    names = ("value", "low", "high", "metric", "seeds")
    return pd.Series({name: row[f"{name}_{side}"] for name in names})


def number_cells(row: pd.Series) -> list[str]:
    """A value and its interval for the table below a figure."""
    return [words.figures(row["value"], 4), bracket(row) or words.MISSING]
