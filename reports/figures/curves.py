"""Curves: metrics against NFE, against what training spent, and against sample count; losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.series import CEILING, Primary, measured, select
from piflow_reports.figures import published
from piflow_reports.figures.base import (
    INK,
    Drawing,
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

POINTS = 400  # Points per training curve; more cannot be seen.


def lines(
    rows: pd.DataFrame, x: str, looks: dict[str, Style], order: list[str], figure: Drawing
) -> list[list[str]]:
    """Add one line with error bars per series; returns the numbers as table rows."""
    table = []
    used = ["series", x, "value", "low", "high", "metric", "seeds", "n", "protocol"]
    parts = dict(list(rows[used].sort_values(x).groupby("series")))
    for name in [s for s in order if s in looks and s in parts]:
        own, look = parts[name], looks[name]
        records = own.to_dict("records")
        figure.add_scatter(
            x=numbers(own[x]), y=numbers(own["value"]), mode="lines+markers", name=safe(name),
            meta=name, marker=marker(look, 8),
            line={"color": look.colour, "width": 2, "dash": look.dash},
            error_y={**error_bars(own), "color": look.colour} if own["low"].notna().any() else None,
            text=[f"{heading(name)}<br>{hover(row)}{protocol(row)}" for row in records],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        table += [[name, words.compact(float(r[x])), *number_cells(r)] for r in records]
    return table


def against_nfe(
    summary: pd.DataFrame,
    looks: dict[str, Style],
    order: list[str],
    primary: Primary,
    prefix: str,
    references: list[Any],
) -> list[Figure]:
    """Each metric of the primary question and extractor against NFE; primary ones first.

    Published numbers of the same metric are marks of their own, which the page's switch hides.
    """
    rows = measured(summary)
    rows = rows[(rows["question"] == primary.question) & ~rows["metric"].str.endswith("_std")]
    found = []
    names = dict.fromkeys([primary.quality, primary.diversity, *words.LABELS, *rows["metric"]])
    for name in names:
        own = select(rows, primary.question, name, primary.extractor)
        if not len(own) or own["extractor"].iloc[0] not in (primary.extractor, "samples"):
            continue
        lined = own[(own["role"] != "control") & own["nfe"].notna()]
        if lined["nfe"].nunique() < 2:
            continue
        figure = blank("NFE", axis_title(name, own["higher"].iloc[0]), 340)
        table = lines(lined, "nfe", looks, order, figure)
        ticks = sorted(int(n) for n in lined["nfe"].unique())
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(t) for t in ticks])
        top = own[own["series"] == CEILING]
        caption = "Bars are 95 % intervals."
        if len(top):
            level = float(top["value"].iloc[0])
            figure.add_scatter(
                x=[ticks[0], ticks[-1]], y=[level, level], mode="lines", hoverinfo="skip",
                line={"color": INK, "dash": "dash", "width": 1.2},
            )  # fmt: skip
            caption += f" Dashed line: converged teacher ({words.figures(level)})."
        marks = [m for m in published.marks(references, primary, name) if m.nfe <= 4 * ticks[-1]]
        if marks:
            published.draw(figure, marks)
            table += [[m.label, str(m.nfe), m.text, words.MISSING] for m in marks]
            caption += " Grey stars: published, under other rules."
            ticks = sorted({*ticks, *(m.nfe for m in marks)})
            figure.update_xaxes(tickvals=ticks, ticktext=[str(t) for t in ticks])
        levels = [
            pd.concat([lined, top])["value"],
            pd.Series([m.value for m in marks], dtype=float),
        ]
        log_y(figure, pd.concat(levels), own["higher"].iloc[0])
        about = lined[lined["role"] == "student"]
        if about["series"].nunique() > 1 and not marks:
            caption += fit(figure, lined, pd.concat([about, top]), {"yaxis": ""})
        found.append(
            Figure(
                f"{prefix}nfe-{name}",
                f"{words.metric(name).label} against NFE",
                caption,
                spec(figure),
                340,
                ["Variant", "NFE", words.metric(name).label, "95 % interval"],
                table,
                words.metric(name).meaning,
            )
        )
    return found


SPENT = {
    "budget_tfe": ("compute", "Training compute (TFE)", "TFE", "teacher-forward equivalents spent"),
    "train_images": ("images", "Training images", "Images", "training rows seen"),
    "hours": ("hours", "Training time", "Hours", "hours of all processes together"),
}


def against_compute(
    by_budget: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, Style],
    order: list[str],
    primary: Primary,
    prefix: str,
    clock: str = "process-hours",
    processes: int = 1,
) -> list[Figure]:
    """The primary metrics against what training spent, where there are checkpoints on the way.

    Quality also against images and hours, of all ``processes`` together; ``clock`` names them.
    """
    rows = measured(by_budget)
    rows = rows[(rows["role"] == "student") & (rows["budget_tfe"] > 0)]
    if not len(rows):
        return []
    rows = rows.assign(hours=rows["train_seconds"] * processes / 3600)
    wanted = [("budget_tfe", m) for m in dict.fromkeys((primary.quality, primary.diversity))]
    wanted += [(x, primary.quality) for x in ("train_images", "hours")]
    found = []
    for nfe in nfes:
        for x, name in wanted:
            own = select(rows, primary.question, name, primary.extractor)
            own = own[(own["nfe"] == nfe) & (own[x] > 0) & np.isfinite(own[x])]
            if not len(own) or own.groupby("series")["budget_fraction"].nunique().max() < 2:
                continue
            label = words.metric(name).label
            key, title, head, meaning = SPENT[x]
            if x == "hours":
                title = f"Training time ({clock})"
            figure = blank(title, axis_title(name, own["higher"].iloc[0]), 340)
            table = lines(own, x, looks, order, figure)
            # A log axis of less than this has hardly a label.
            if own[x].max() / own[x].min() > 4:
                figure.update_xaxes(**log_axis(own[x].min(), own[x].max()))
            log_y(figure, own["value"], own["higher"].iloc[0])
            found.append(
                Figure(
                    f"{prefix}{key}-{name}-{nfe}",
                    f"{label} against {key}, {nfe} NFE",
                    f"{head}: {meaning} at each checkpoint. Bars are 95 % intervals.",
                    spec(figure),
                    340,
                    ["Variant", head, label, "95 % interval"],
                    table,
                )
            )
    return found


def against_size(
    breakdown: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, Style],
    order: list[str],
    prefix: str,
) -> list[Figure]:
    """The Fréchet distance against sample count, with the line that gives its value at infinity."""
    if "kind" not in breakdown:
        return []
    # Few steps of the teacher are so far off that nothing else could be seen.
    rows = breakdown[(breakdown["kind"] == "size") & (breakdown["role"] == "student")]
    label = words.metric("fd").label
    found = []
    for nfe in nfes:
        here = rows[rows["nfe"] == nfe]
        figure = blank("Samples n (axis in 1/n)", axis_title("fd", False), 340)
        table: list[list[str]] = []
        for name in [s for s in order if s in looks]:
            own = here[here["series"] == name]
            points = own[own["metric"] == "fd"].sort_values("n")
            if len(points) < 2:
                continue
            look, end = looks[name], own.loc[own["metric"] == "fd_infinity", "value"]
            counts = points["n"].astype(int).tolist()
            texts = [f"{heading(name)}<br>{label} {words.figures(v, 4)}, n = {n:,}"
                     for v, n in zip(points["value"], counts, strict=True)]  # fmt: skip
            figure.add_scatter(
                x=[1 / n for n in counts], y=numbers(points["value"]), mode="markers",
                name=safe(name), meta=name, marker=marker(look, 7), text=texts,
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
            slope = np.polyfit([1 / n for n in counts], points["value"], 1)
            far = 1 / counts[0]
            figure.add_scatter(
                x=[0, far], y=[float(slope[1]), float(np.polyval(slope, far))], mode="lines",
                name=safe(name), meta=name, showlegend=False,
                line={"color": look.colour, "width": 1.3, "dash": "dot"},
                text=[f"{heading(name)}<br>at infinity {words.figures(float(slope[1]), 4)}"] * 2,
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
            table += [[name, f"{n:,}", words.figures(v, 4)]
                      for n, v in zip(counts, points["value"], strict=True)]  # fmt: skip
            table += [[name, "∞ (extrapolated)", words.figures(float(v), 4)] for v in end]
        if not table:
            continue
        counts = sorted({int(n) for n in here["n"]})
        ticks = counts if len(counts) < 5 else [counts[0], counts[len(counts) // 3], counts[-1]]
        figure.update_xaxes(tickvals=[0, *(1 / n for n in ticks)],
                            ticktext=["∞", *(words.compact(n) for n in ticks)])  # fmt: skip
        found.append(
            Figure(
                f"{prefix}size-{nfe}",
                f"{label} against sample count, {nfe} NFE",
                "Nested random subsets of one train seed's samples; dotted: the line in 1/n whose "
                "end at infinitely many samples is FD∞ (Chong & Forsyth 2020). Slopes that differ "
                "are why only equal n compare.",
                spec(figure),
                340,
                ["Variant", "n", label],
                table,
            )
        )
    return found


def training(
    curves: pd.DataFrame,
    looks: dict[str, Style],
    order: list[str],
    variants: dict[str, str],
    prefix: str,
) -> list[Figure]:
    """Loss against compute, one panel per variant: losses of two methods share no scale.

    ``variants``: the variant of every series.
    """
    if not {"variant", "loss"} <= set(curves.columns):
        return []
    x = "tfe" if np.isfinite(curves["tfe"]).any() else "step"
    found = []
    # A training is sampled in several ways; the first series lends its look.
    sampled_as: dict[str, list[str]] = {}
    for series in (s for s in order if s in looks):
        sampled_as.setdefault(variants[series], []).append(series)
    keys = ["train_nfe", "train_seed"]
    for number, (name, sampled) in enumerate(sampled_as.items()):
        own = curves[curves["variant"] == name]
        own = own[np.isfinite(pd.to_numeric(own["loss"], errors="coerce"))]
        if len(own) < 2:
            continue
        look = looks[sampled[0]]
        figure = blank("Training compute (TFE)" if x == "tfe" else "Step", "Loss", 240)
        groups = list(own.groupby(keys, dropna=False, sort=True))
        for key, part in groups:
            part = part.sort_values(x)
            step = max(1, -(-len(part) // POINTS))
            labels = [
                f"{'NFE' if k == 'train_nfe' else 'seed'} {v:g}"
                for k, v in zip(keys, key, strict=True)
                if pd.notna(v)
            ]
            figure.add_scatter(
                x=numbers(part[x].iloc[::step]), y=numbers(part["loss"].iloc[::step]),
                mode="lines", meta=sampled, name=safe(", ".join(labels) or name),
                line={"color": look.colour, "width": 1.3}, opacity=1 if len(groups) == 1 else 0.6,
                hovertemplate="%{x:.4g}: %{y:.4g}",
            )  # fmt: skip
        log_y(figure, own["loss"].astype(float))
        count = words.count(len(groups), "run")
        table = _stations(groups, keys, x)
        heads = ["Run", "TFE" if x == "tfe" else "Step", "Loss"]
        text = spec(figure)
        found.append(Figure(f"{prefix}loss-{number}", name, f"{count}.", text, 240, heads, table))
    return found


def _stations(groups: list[tuple[Any, pd.DataFrame]], keys: list[str], x: str) -> list[list[str]]:
    """Some losses along the way of every run: medians over tenths of its log."""
    table = []
    for key, part in groups:
        named = zip(keys, key, strict=True)
        run = ", ".join(
            f"{'NFE' if k == 'train_nfe' else 'seed'} {v:g}" for k, v in named if pd.notna(v)
        )
        part = part.sort_values(x)
        for rows in np.array_split(np.arange(len(part)), min(10, len(part))):
            tenth = part.iloc[rows]
            end, middle = float(tenth[x].iloc[-1]), float(tenth["loss"].astype(float).median())
            table.append([run, words.compact(end), words.figures(middle)])
    return table
