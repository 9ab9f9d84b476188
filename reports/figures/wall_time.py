"""The primary metrics against the time that a sample takes, on one kind of hardware."""

from __future__ import annotations

import numpy as np
import pandas as pd
from piflow_reports.data.series import CEILING, Primary, costs, measured, select
from piflow_reports.figures.base import (
    INK,
    Figure,
    axis_title,
    blank,
    error_bars,
    fit,
    heading,
    hover,
    log_axis,
    log_y,
    marker,
    number_cells,
    numbers,
    protocol,
    safe,
    spec,
)
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

SECONDS = "sample_seconds"


def against_time(
    summary: pd.DataFrame,
    results: pd.DataFrame,
    looks: dict[str, Style],
    order: list[str],
    primary: Primary,
    prefix: str,
) -> list[Figure]:
    """Students and the teacher's solvers, a line along NFE each; a figure per kind of hardware."""
    timed = results[np.isfinite(results[SECONDS]) & (results[SECONDS] > 0)]
    found = []
    machines = sorted(timed.loc[timed["role"] != "control", "sample_hardware"].unique())
    for number, hardware in enumerate(machines):
        on_it = timed[timed["sample_hardware"] == hardware]
        spent = costs(on_it)[["series", "nfe", SECONDS]]
        for name in dict.fromkeys((primary.quality, primary.diversity)):
            own = measured(select(summary, primary.question, name, primary.extractor))
            rows = own[(own["role"] != "control") & own["nfe"].notna()]
            # Both sides as plain floats: one of them may hold NFEs that can be missing.
            rows = rows.assign(nfe=rows["nfe"].astype(float)).merge(
                spent.assign(nfe=spent["nfe"].astype(float)), on=["series", "nfe"]
            )
            rows = rows[rows["series"].isin(looks)]
            if rows["series"].nunique() < 2:
                continue
            top = own[own["series"] == CEILING]
            key = f"{prefix}time-{name}" + (f"-{number}" if number else "")
            found.append(_figure(rows, top, name, looks, order, hardware, key))
    return found


def _figure(
    rows: pd.DataFrame,
    top: pd.DataFrame,
    name: str,
    looks: dict[str, Style],
    order: list[str],
    hardware: str,
    key: str,
) -> Figure:
    higher, label = rows["higher"].iloc[0], words.metric(name).label
    figure = blank("Seconds per sample", axis_title(name, higher), 380)
    table = []
    for series in (s for s in order if s in set(rows["series"])):
        own, look = rows[rows["series"] == series].sort_values("nfe"), looks[series]
        records = own.to_dict("records")
        figure.add_scatter(
            x=numbers(own[SECONDS]), y=numbers(own["value"]), mode="lines+markers",
            name=safe(series), meta=series, marker=marker(look, 9),
            line={"color": look.colour, "width": 2, "dash": look.dash},
            error_y={**error_bars(own), "color": look.colour} if own["low"].notna().any() else None,
            text=[f"{heading(series)}, {int(r['nfe'])} NFE, {words.duration(r[SECONDS])}<br>"
                  f"{hover(r)}{protocol(r)}" for r in records],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        table += [[series, str(int(r["nfe"])), words.duration(r[SECONDS]), *number_cells(r)]
                  for r in records]  # fmt: skip
    ends = [float(rows[SECONDS].min()), float(rows[SECONDS].max())]
    level = ""
    if len(top):
        value = float(top["value"].iloc[0])
        figure.add_scatter(
            x=ends, y=[value, value], mode="lines", hoverinfo="skip",
            line={"color": INK, "dash": "dash", "width": 1.2},
        )  # fmt: skip
        level = f" Dashed: converged teacher ({words.figures(value)})."
    figure.update_xaxes(**log_axis(*ends))
    about = pd.concat([rows[rows["role"] == "student"], top])
    log_y(figure, pd.concat([rows, top])["value"], higher)
    far = fit(figure, rows, about, {"yaxis": ""}) if len(about) > 1 else ""
    where = f" on {hardware}" if hardware else ""
    return Figure(
        key,
        f"{label} against the time of a sample",
        f"Medians of what sampling took{where}, batches as they came; a line goes along NFE. Bars "
        f"are 95 % intervals of the metric.{level}{far}",
        spec(figure),
        380,
        ["Variant", "NFE", "Time per sample", label, "95 % interval"],
        table,
    )
