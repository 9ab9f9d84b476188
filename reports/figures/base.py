"""What all figures share: the page's look for plotly, axes, markers and hover texts."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

Row = Mapping[Any, Any]
"""A row of a summary."""
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
    meaning: str = ""
    """What the title's metric means."""


@dataclass
class Drawing:
    """A plotly figure as the data it is: building graph objects costs seconds per page."""

    layout: dict[str, Any]
    data: list[dict[str, Any]] = field(default_factory=list)

    def add_scatter(self, **trace: Any) -> None:
        """Add points or lines, by plotly's names."""
        self._add("scatter", trace)

    def add_bar(self, **trace: Any) -> None:
        """Add bars."""
        self._add("bar", trace)

    def add_heatmap(self, **trace: Any) -> None:
        """Add a heatmap."""
        self._add("heatmap", trace)

    def _add(self, kind: str, trace: dict[str, Any]) -> None:
        given = {name: value for name, value in trace.items() if value is not None}
        self.data.append({"type": kind, **given})

    def update_layout(self, **settings: Any) -> None:
        """Set parts of the layout."""
        self.layout |= settings

    def update_xaxes(self, **settings: Any) -> None:
        """Set parts of the axis across."""
        self.layout["xaxis"] |= settings

    def update_yaxes(self, **settings: Any) -> None:
        """Set parts of the axis that goes up."""
        self.layout["yaxis"] |= settings


def safe(text: str) -> str:
    """A name as plotly shows it literally: plotly reads a subset of HTML."""
    return html.escape(text, quote=False)


def heading(name: str) -> str:
    """The first line of what a point says; a very long name would push the numbers off."""
    return f"<b>{safe(words.short(name, 60))}</b>"


def spec(figure: Drawing) -> str:
    """The figure as JSON that is safe inside a script element."""
    _write_small_numbers_out(figure)
    content = {"data": figure.data, "layout": figure.layout}
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, default=_plain)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _write_small_numbers_out(figure: Drawing) -> None:
    """Labels of small values as numbers: plotly would write 0.0004 as 400u."""
    for side in "xy":
        values = [v for trace in figure.data for v in _values(trace.get(side))]
        largest = max((abs(v) for v in values if np.isfinite(v)), default=0.0)
        if 0 < largest < 1:
            form = "none" if largest >= 1e-4 else "power"
            figure.layout[f"{side}axis"].setdefault("exponentformat", form)


def _values(values: Any) -> list[float]:
    """What is a number in a trace's list."""
    flat = [] if values is None else np.asarray(values, dtype=object).ravel().tolist()
    return [float(v) for v in flat if isinstance(v, (int, float, np.number))]


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


def blank(x: str, y: str, height: int) -> Drawing:
    """An empty figure in the page's style; the template is left out, for it weighs 7 kB."""
    axis: dict[str, Any] = {
        "showline": True, "linecolor": INK, "ticks": "outside", "ticklen": 4, "tickcolor": INK,
        "gridcolor": "rgba(128,128,128,.22)", "zeroline": False, "automargin": True,
    }  # fmt: skip
    return Drawing(
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


def value_and_span(row: Row) -> tuple[str, str]:
    """A value and its interval, both with the places that the interval's width supports."""
    places = words.decimals([row["value"]], [(row["high"] - row["low"]) / 2])
    return words.fixed(row["value"], places), words.span(row["low"], row["high"], places)


def hover(row: Row) -> str:
    """What a point says when pointed at."""
    label = words.metric(row["metric"]).label
    seeds = words.count(row["seeds"], "train seed") if row["seeds"] else ""
    n = f"n = {int(row['n']):,}" if words.finite(row.get("n")) else ""
    about = ", ".join(p for p in (n, seeds) if p)
    parts = [" ".join((label, *value_and_span(row))).strip(), about]
    return "<br>".join(p for p in parts if p)


def protocol(row: Row) -> str:
    """The last line of what a point says: by which protocol it was evaluated."""
    return f"<br>protocol {safe(str(row['protocol'])[:12])}" if row.get("protocol") else ""


def axis_title(name: str, higher: bool | None) -> str:
    """A metric's axis title, with the better direction."""
    hint = "" if higher is None else (" (higher is better)" if higher else " (lower is better)")
    return words.metric(name).label + hint


def wide(values: pd.Series, ratio: float = 8) -> bool:
    """Whether a log axis serves: positive values over a wide range."""
    good = values[np.isfinite(values)]
    return len(good) > 1 and bool((good > 0).all()) and good.max() / good.min() > ratio


def log_y(figure: Drawing, values: pd.Series, higher: object = None) -> None:
    """Make the y axis logarithmic where that serves: shares and scores are no ratios."""
    if not higher and wide(values):
        known = values[np.isfinite(values)]
        figure.update_yaxes(**log_axis(known.min(), known.max()))


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A log axis with few, whole labels: plotly's own label every digit of a short axis."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    steps = (1, 2, 5) if high / low < 200 else (1, 3) if high / low < 2000 else (1,)
    ticks = [m * 10.0**e for e in range(first - 1, last + 1) for m in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [_tick(t) for t in ticks]}


def _tick(value: float) -> str:
    return words.compact(value) if value >= 1000 else f"{value:g}"


MORE = "; a double click shows all"
STRETCH = 4
"""How many times its own extent a linear axis grows at most, to show more than it is about."""


def fit(figure: Drawing, rows: pd.DataFrame, about: pd.DataFrame, axes: dict[str, str]) -> str:
    """Keep far-off rows from squeezing what a figure is about; words on who is beyond the axes.

    ``axes``: the suffix of the columns value, low and high that each axis shows. Linear axes end
    where ``about`` does, or farther as long as other rows stretch them less than ``STRETCH`` times.
    """
    beyond = pd.Series(False, index=rows.index)
    windows = {}
    for axis, suffix in axes.items():
        low, high = _ends(about, suffix)
        if figure.layout[axis].get("type") == "log" or not high > low:
            continue
        most = STRETCH * (high - low)
        values = rows[f"value{suffix}"]
        for value in sorted(values, key=lambda v: max(low - v, v - high)):
            if max(high, value) - min(low, value) <= most:
                low, high = min(low, value), max(high, value)
        windows[axis] = (low, high)
        beyond |= (values < low) | (values > high)
    if not beyond.any():
        return ""
    for axis, suffix in axes.items():
        log = figure.layout[axis].get("type") == "log"
        low, high = windows.get(axis) or _ends(pd.concat([about, rows[~beyond]]), suffix, log)
        if log:
            low, high = np.log10(low), np.log10(high)
        room = 0.07 * (high - low) or 0.07 * abs(high) or 1.0
        figure.layout[axis] |= {"range": [float(low - room), float(high + room)]}
    names = [words.isolated(name) for name in dict.fromkeys(rows.loc[beyond, "series"])]
    several = f"{len(names)} baselines" if len(names) > 4 else words.joined(names)
    return f" Beyond the axes, in whole or part: {several}{MORE}."


def _ends(rows: pd.DataFrame, suffix: str, log: bool = False) -> tuple[float, float]:
    """Between which values the rows and their intervals lie; a log axis has no end at nil."""
    value, low, high = (rows[f"{name}{suffix}"].astype(float) for name in ("value", "low", "high"))
    low = low.where(low > 0) if log else low
    return float(low.fillna(value).min()), float(high.fillna(value).max())


def side_of(row: Row, side: str) -> Row:
    """One metric's half of a merged row."""
    names = ("value", "low", "high", "metric", "seeds", "n")
    return {name: row[f"{name}_{side}"] for name in names}


def number_cells(row: Row) -> list[str]:
    """A value and its interval for the table below a figure."""
    value, span = value_and_span(row)
    return [value, span or words.MISSING]
