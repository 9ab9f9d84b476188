"""The figures: plotly specifications made of the summary, each with its numbers as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from piflow_reports import words
from piflow_reports.frames import CEILING, Primary, measured, select
from piflow_reports.plots import (
    INK,
    Figure,
    axis_title,
    blank,
    error_bars,
    hover,
    log_axis,
    log_y,
    marker,
    number_cells,
    numbers,
    safe,
    side_of,
    spec,
    wide,
)
from piflow_reports.styles import Style

POINTS = 400  # Points per training curve; more cannot be seen.


def trade_off(
    summary: pd.DataFrame, nfes: list[int], looks: dict[str, Style], primary: Primary, prefix: str
) -> list[Figure]:
    """Quality against diversity, one figure per NFE, with the front of what is not dominated."""
    rows = measured(summary)
    quality = select(rows, primary.question, primary.quality, primary.extractor)
    diversity = select(rows, primary.question, primary.diversity, primary.extractor)
    if primary.quality == primary.diversity or not len(quality) or not len(diversity):
        return []
    keys = ["series", "nfe", "role", "track", "protocol"]
    both = quality.merge(diversity, on=keys, suffixes=("_q", "_d"))
    found = []
    for nfe in nfes:
        here = both[(both["nfe"] == nfe) & (both["role"] != "control")]
        if not len(here):
            continue
        control = both[(both["role"] == "control") & (both["series"] == CEILING)]
        higher = (quality["higher"].iloc[0], diversity["higher"].iloc[0])
        figure = blank(
            axis_title(primary.diversity, higher[1]), axis_title(primary.quality, higher[0]), 380
        )
        for track, students in here[here["role"] == "student"].groupby("track"):
            front = _front(students, bool(higher[0]), bool(higher[1]))
            if len(front) > 1:
                figure.add_scatter(
                    x=numbers(front["value_d"]), y=numbers(front["value_q"]), mode="lines",
                    line={"color": INK, "width": 1.2, "dash": "dot"},
                    hoverinfo="skip", name=f"Pareto front, {safe(str(track))}",
                )  # fmt: skip
        table = []
        for _, row in pd.concat([here, control]).iterrows():
            look = looks.get(row["series"])
            q, d = side_of(row, "q"), side_of(row, "d")
            name = safe(row["series"])
            figure.add_scatter(
                x=[row["value_d"]], y=[row["value_q"]], mode="markers", name=name,
                meta=row["series"] if look else None,
                marker=marker(look, 12) if look else {"symbol": "star-open", "size": 15,
                                                       "color": INK},
                error_x=error_bars(pd.DataFrame([d])) if words.finite(d["low"]) else None,
                error_y=error_bars(pd.DataFrame([q])) if words.finite(q["low"]) else None,
                text=[f"<b>{name}</b><br>{hover(q)}<br>{hover(d)}"],
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
            table.append([row["series"], *number_cells(q), *number_cells(d)])
        log_y(figure, pd.concat([here, control])["value_q"])
        labels = [words.metric(m).label for m in (primary.quality, primary.diversity)]
        star = " The star is the converged teacher." if len(control) else ""
        found.append(
            Figure(
                f"{prefix}trade-{nfe}",
                f"Quality and diversity at {nfe} NFE",
                f"Bars are 95 % intervals; dotted: what no other student dominates.{star}",
                spec(figure),
                380,
                ["Variant", labels[0], "95 % interval", labels[1], "95 % interval"],
                table,
            )
        )
    return found


def path_along_nfe(
    summary: pd.DataFrame, looks: dict[str, Style], order: list[str], primary: Primary, prefix: str
) -> list[Figure]:
    """Quality against diversity at all NFEs: an arrow from each to the next, one line a series."""
    rows = measured(summary)
    quality = select(rows, primary.question, primary.quality, primary.extractor)
    diversity = select(rows, primary.question, primary.diversity, primary.extractor)
    keys = ["series", "nfe", "role", "track", "protocol"]
    both = quality.merge(diversity, on=keys, suffixes=("_q", "_d")).dropna(subset=["nfe"])
    both = both[both["role"] != "control"]
    if primary.quality == primary.diversity or both["nfe"].nunique() < 2:
        return []
    higher = (quality["higher"].iloc[0], diversity["higher"].iloc[0])
    figure = blank(
        axis_title(primary.diversity, higher[1]), axis_title(primary.quality, higher[0]), 420
    )
    table = []
    for name in [s for s in order if s in looks]:
        own = both[both["series"] == name].sort_values("nfe")
        if not len(own):
            continue
        look = looks[name]
        texts = []
        for _, row in own.iterrows():
            q, d = side_of(row, "q"), side_of(row, "d")
            nfe = int(row["nfe"])
            texts.append(f"<b>{safe(name)}</b>, {nfe} NFE<br>{hover(q)}<br>{hover(d)}")
            table.append([name, str(nfe), *number_cells(q), *number_cells(d)])
        symbols = [look.marker, *["arrow"] * (len(own) - 1)]
        figure.add_scatter(
            x=numbers(own["value_d"]), y=numbers(own["value_q"]), mode="lines+markers",
            name=safe(name), meta=name, text=texts, hovertemplate="%{text}<extra></extra>",
            line={"color": look.colour, "width": 2, "dash": look.dash},
            marker={**marker(look, 12), "symbol": symbols, "angleref": "previous"},
        )  # fmt: skip
    log_y(figure, both["value_q"])
    labels = [words.metric(m).label for m in (primary.quality, primary.diversity)]
    nfes = ", ".join(str(int(n)) for n in sorted(both["nfe"].unique()))
    return [
        Figure(
            f"{prefix}trade-path",
            "The way along NFE",
            f"Arrows lead from the fewest evaluations to the most ({nfes}).",
            spec(figure),
            420,
            ["Variant", "NFE", labels[0], "95 % interval", labels[1], "95 % interval"],
            table,
        )
    ]


def _front(rows: pd.DataFrame, more_q: bool, more_d: bool) -> pd.DataFrame:
    q = rows["value_q"].to_numpy() * (1 if more_q else -1)
    d = rows["value_d"].to_numpy() * (1 if more_d else -1)
    keep = [
        not any((q >= q[i]) & (d >= d[i]) & ((q > q[i]) | (d > d[i]))) for i in range(len(rows))
    ]
    return rows[keep].sort_values("value_d")


def lines(
    rows: pd.DataFrame, x: str, looks: dict[str, Style], order: list[str], figure: go.Figure
) -> list[list[str]]:
    """Add one line with error bars per series; returns the numbers as table rows."""
    table = []
    for name in [s for s in order if s in looks]:
        own = rows[rows["series"] == name].sort_values(x)
        if not len(own):
            continue
        look = looks[name]
        figure.add_scatter(
            x=numbers(own[x]), y=numbers(own["value"]), mode="lines+markers", name=safe(name),
            meta=name, marker=marker(look, 8),
            line={"color": look.colour, "width": 2, "dash": look.dash},
            error_y={**error_bars(own), "color": look.colour} if own["low"].notna().any() else None,
            text=[f"<b>{safe(name)}</b><br>{hover(row)}" for _, row in own.iterrows()],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
        table += [[name, words.compact(float(r[x])), *number_cells(r)] for _, r in own.iterrows()]
    return table


def against_nfe(
    summary: pd.DataFrame, looks: dict[str, Style], order: list[str], primary: Primary, prefix: str
) -> list[Figure]:
    """Each metric of the primary question and extractor against NFE; primary ones first."""
    rows = measured(summary)
    rows = rows[(rows["question"] == primary.question) & ~rows["metric"].str.endswith("_std")]
    found = []
    names = dict.fromkeys([primary.quality, primary.diversity, *words.METRICS, *rows["metric"]])
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
        log_y(figure, pd.concat([lined, top])["value"])
        found.append(
            Figure(
                f"{prefix}nfe-{name}",
                f"{words.metric(name).label} against NFE",
                caption,
                spec(figure),
                340,
                ["Variant", "NFE", words.metric(name).label, "95 % interval"],
                table,
            )
        )
    return found


def against_compute(
    by_budget: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, Style],
    order: list[str],
    primary: Primary,
    prefix: str,
) -> list[Figure]:
    """The primary metrics against training compute, where there are checkpoints on the way."""
    rows = measured(by_budget)
    rows = rows[(rows["role"] == "student") & (rows["budget_tfe"] > 0)]
    found = []
    for nfe in nfes:
        for name in dict.fromkeys((primary.quality, primary.diversity)):
            own = select(rows, primary.question, name, primary.extractor)
            own = own[own["nfe"] == nfe]
            if not len(own) or own.groupby("series")["budget_fraction"].nunique().max() < 2:
                continue
            label = words.metric(name).label
            figure = blank("Training compute (TFE)", axis_title(name, own["higher"].iloc[0]), 340)
            table = lines(own, "budget_tfe", looks, order, figure)
            low, high = own["budget_tfe"].min(), own["budget_tfe"].max()
            figure.update_xaxes(**log_axis(low, high))
            log_y(figure, own["value"])
            found.append(
                Figure(
                    f"{prefix}compute-{name}-{nfe}",
                    f"{label} against compute, {nfe} NFE",
                    "TFE: teacher-forward equivalents spent at each checkpoint. Bars are 95 % "
                    "intervals.",
                    spec(figure),
                    340,
                    ["Variant", "TFE", label, "95 % interval"],
                    table,
                )
            )
    return found


def training(
    curves: pd.DataFrame, looks: dict[str, Style], order: list[str], prefix: str
) -> list[Figure]:
    """Loss against compute, one panel per variant: losses of two methods share no scale."""
    if not {"variant", "loss"} <= set(curves.columns):
        return []
    x = next((name for name in ("tfe", "step") if name in curves), None)
    if x is None:
        return []
    found = []
    by_variant = {name.split(" · ")[0]: look for name, look in reversed(looks.items())}
    by_variant |= looks
    variants = [v for v in dict.fromkeys(s.split(" · ")[0] for s in order) if v in by_variant]
    keys = [key for key in ("train_nfe", "train_seed") if key in curves]
    for number, name in enumerate(variants):
        own = curves[curves["variant"] == name]
        own = own[np.isfinite(pd.to_numeric(own["loss"], errors="coerce"))]
        if len(own) < 2:
            continue
        look = by_variant[name]
        figure = blank("Training compute (TFE)" if x == "tfe" else "Step", "Loss", 240)
        groups = list(own.groupby(keys, dropna=False, sort=True)) if keys else [((), own)]
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
                mode="lines", meta=name, name=safe(", ".join(labels) or name),
                line={"color": look.colour, "width": 1.3}, opacity=1 if len(groups) == 1 else 0.6,
                hovertemplate="%{x:.4g}: %{y:.4g}",
            )  # fmt: skip
        log_y(figure, own["loss"].astype(float))
        count = f"{len(groups)} run{'s' if len(groups) > 1 else ''}"
        found.append(Figure(f"{prefix}loss-{number}", name, f"{count}.", spec(figure), 240))
    return found


COSTS = (
    ("train_tfe", "Training compute (TFE)", words.compact, False),
    ("train_seconds", "Training time", words.duration, False),
    ("flops_per_sample", "FLOPs per sample", words.compact, True),
    ("sample_seconds", "Time per sample", words.duration, True),
)


def cost_bars(
    costs: pd.DataFrame, looks: dict[str, Style], order: list[str], prefix: str
) -> list[Figure]:
    """What each variant cost: bars, per NFE where the cost depends on it."""
    found = []
    for column, title, write, per_nfe in COSTS:
        rows = costs[np.isfinite(costs[column]) & (costs[column] > 0)]
        rows = rows[rows["series"].isin(looks)]
        if not len(rows):
            continue
        names = [name for name in order if name in set(rows["series"])]
        labels, values, texts, colours = [], [], [], []
        for name in names:
            own = rows[rows["series"] == name].sort_values("nfe")
            # One bar where one training serves every NFE; specialists have one per NFE.
            if not per_nfe and own[column].nunique() == 1:
                own = own.iloc[:1].assign(nfe=np.nan)
            for _, row in own.iterrows():
                suffix = f" · {int(row['nfe'])} NFE" if words.finite(row["nfe"]) else ""
                labels.append((name, suffix))
                values.append(float(row[column]))
                texts.append(write(float(row[column])))
                colours.append(looks[name])
        height = 24 + 25 * len(values)
        figure = blank("", "", height)
        for i, ((name, suffix), value, text, look) in enumerate(
            zip(labels, values, texts, colours, strict=True)
        ):
            figure.add_bar(
                x=[value], y=[i], orientation="h", meta=name, name=safe(name),
                text=[text], textposition="outside", cliponaxis=False,
                marker={"color": look.colour, "opacity": 0.45 if look.hollow else 0.9},
                hovertext=[f"{safe(name + suffix)}: {text}"], hoverinfo="text", width=0.7,
            )  # fmt: skip
        figure.update_yaxes(
            tickvals=list(range(len(labels))), autorange="reversed", showgrid=False, ticks="",
            ticktext=[safe(words.short(name, 18) + suffix) for name, suffix in labels],
        )  # fmt: skip
        log = wide(pd.Series(values), 30)
        low, high = min(values), max(values)
        reach = [np.log10(low) - 0.3, np.log10(high) + 1.1] if log else [0, high * 1.4]
        # Every bar carries its number, so the axis needs none.
        figure.update_xaxes(
            range=[float(v) for v in reach], type="log" if log else "linear", visible=False
        )
        figure.update_layout(margin={"l": 10, "r": 10, "t": 4, "b": 8})
        found.append(
            Figure(
                f"{prefix}cost-{column}",
                title,
                "Log axis." if log else "",
                spec(figure),
                height,
                ["Variant", title],
                [[n + s, t] for (n, s), t in zip(labels, texts, strict=True)],
            )
        )
    return found
