"""Quality against diversity: at each NFE, along NFE, and over settings of sampling."""

from __future__ import annotations

import re

import pandas as pd
from piflow_reports.data.series import CEILING, Primary, both_sides
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
    log_y,
    marker,
    number_cells,
    numbers,
    protocol,
    safe,
    side_of,
    spec,
)
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style


def trade_off(
    summary: pd.DataFrame, nfes: list[int], looks: dict[str, Style], primary: Primary, prefix: str
) -> list[Figure]:
    """Quality against diversity, one figure per NFE, with the front of what is not dominated."""
    both = both_sides(summary, primary, primary.question)
    found = []
    for nfe in nfes:
        here = both[(both["nfe"] == nfe) & (both["role"] != "control")]
        if not len(here):
            continue
        control = both[(both["role"] == "control") & (both["series"] == CEILING)]
        higher, figure = _axes(both, primary, 380)
        for track, students in here[here["role"] == "student"].groupby("track"):
            front = _front(students, bool(higher[0]), bool(higher[1]))
            if len(front) > 1:
                figure.add_scatter(
                    x=numbers(front["value_d"]), y=numbers(front["value_q"]), mode="lines",
                    line={"color": INK, "width": 1.2, "dash": "dot"},
                    hoverinfo="skip", name=f"Pareto front, {safe(str(track))}",
                )  # fmt: skip
        table = []
        for row in pd.concat([here, control]).to_dict("records"):
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
                text=[f"{heading(row['series'])}<br>{hover(q)}<br>{hover(d)}{protocol(row)}"],
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
            table.append([row["series"], *number_cells(q), *number_cells(d)])
        log_y(figure, pd.concat([here, control])["value_q"], higher[0])
        about = here[here["role"] == "student"]
        far = ""
        if about["series"].nunique() > 1:
            about = pd.concat([about, control])
            far = fit(figure, here, about, {"xaxis": "_d", "yaxis": "_q"})
        labels = [words.metric(m).label for m in (primary.quality, primary.diversity)]
        star = "; star: converged teacher" if len(control) else ""
        found.append(
            Figure(
                f"{prefix}trade-{nfe}",
                f"Quality and diversity at {nfe} NFE",
                f"Bars are 95 % intervals; dotted: not dominated{star}.{far}",
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
    both = both_sides(summary, primary, primary.question).dropna(subset=["nfe"])
    both = both[both["role"] != "control"]
    if both["nfe"].nunique() < 2:
        return []
    parts = {name: (both[both["series"] == name], looks[name]) for name in order if name in looks}
    nfes = ", ".join(str(int(n)) for n in sorted(both["nfe"].unique()))
    note = f"Arrows lead from the fewest evaluations to the most ({nfes})."
    about = (f"{prefix}trade-path", "The way along NFE", note)
    return [_paths(both, parts, primary, about)]


def at_the_chosen(
    found: pd.DataFrame, looks: dict[str, Style], primary: Primary, prefix: str
) -> list[Figure]:
    """The same on the half that chose nothing, each at its chosen way; ``found``: ``chosen``'s."""
    found = found[found["series"].isin(looks)]
    if not len(found):
        return []
    parts = {
        str(base): (own, looks[own["series"].iloc[0]])
        for base, own in found.groupby("base", sort=False)
    }
    note = (
        "Each way of sampling, or of several guidance scales, is the one that was best on half of "
        "the data and samples; shown is the other half. Arrows lead from the fewest evaluations "
        "to the most."
    )
    about = (f"{prefix}trade-chosen", "At the ways chosen on the other half of the data", note)
    return [_paths(found, parts, primary, about)]


def _paths(
    both: pd.DataFrame,
    parts: dict[str, tuple[pd.DataFrame, Style]],
    primary: Primary,
    about: tuple[str, str, str],
) -> Figure:
    """A line along NFE for every part, with its look; ``about``: id, title and note."""
    higher, figure = _axes(both, primary, 420)
    ways, table = "way" in both, []
    for name, (rows, look) in parts.items():
        own = rows.sort_values("nfe")
        if not len(own):
            continue
        texts = []
        for row in own.to_dict("records"):
            q, d = side_of(row, "q"), side_of(row, "d")
            way = [f"{row['way']}, of {row['ways']}"] if ways else []
            said = f"{hover(q)}<br>{hover(d)}{protocol(row)}"
            nfe = str(int(row["nfe"]))
            texts.append(f"{heading(name)}, {safe(', '.join([f'{nfe} NFE', *way]))}<br>{said}")
            table.append([name, nfe, *way, *number_cells(q), *number_cells(d)])
        symbols = [look.marker, *["arrow"] * (len(own) - 1)]
        # An arrow has no direction at the first point, where plotly then draws nothing.
        figure.add_scatter(
            x=numbers(own["value_d"][:1]), y=numbers(own["value_q"][:1]), mode="markers",
            name=safe(name), meta=name, text=texts[:1], hovertemplate="%{text}<extra></extra>",
            marker=marker(look, 9),
        )  # fmt: skip
        figure.add_scatter(
            x=numbers(own["value_d"]), y=numbers(own["value_q"]), mode="lines+markers",
            name=safe(name), meta=name, text=texts, hovertemplate="%{text}<extra></extra>",
            line={"color": look.colour, "width": 2, "dash": look.dash},
            marker={**marker(look, 12), "symbol": symbols, "angleref": "previous"},
        )  # fmt: skip
    log_y(figure, both["value_q"], higher[0])
    students, far = both[both["role"] == "student"], ""
    if students["series"].nunique() > 1:
        far = fit(figure, both, students, {"xaxis": "_d", "yaxis": "_q"})
    labels = [words.metric(m).label for m in (primary.quality, primary.diversity)]
    heads = ["Variant", "NFE", *(["Chosen"] if ways else [])]
    name, title, note = about
    return Figure(
        name,
        title,
        note + far,
        spec(figure),
        420,
        [*heads, labels[0], "95 % interval", labels[1], "95 % interval"],
        table,
    )


def along_settings(
    summary: pd.DataFrame, nfes: list[int], looks: dict[str, Style], primary: Primary, prefix: str
) -> list[Figure]:
    """Quality against diversity of variants that were sampled in several ways: a front each."""
    both = both_sides(summary, primary, primary.question)
    both = both[both["series"].isin(looks)]
    found = []
    for nfe in nfes:
        here = both[both["nfe"] == nfe]
        sizes = here.groupby("variant")["series"].nunique()
        apart = here.groupby("variant")[["value_q", "value_d"]].nunique().max(axis=1)
        several = [v for v in dict.fromkeys(here["variant"]) if min(sizes[v], apart[v]) > 1]
        if not several:
            continue
        higher, figure = _axes(both, primary, 400)
        table = []
        for variant in several:
            own = here[here["variant"] == variant]
            own = own.iloc[sorted(range(len(own)), key=lambda i: _natural(own["series"].iloc[i]))]
            look = looks[own["series"].iloc[0]]
            texts, labels = [], []
            for row in own.to_dict("records"):
                q, d = side_of(row, "q"), side_of(row, "d")
                label = row["series"].removeprefix(f"{variant} · ")
                labels.append(safe(label))
                said = f"{hover(q)}<br>{hover(d)}{protocol(row)}"
                texts.append(f"{heading(variant)}, {safe(label)}<br>{said}")
                table.append([variant, label, *number_cells(q), *number_cells(d)])
            named = {"mode": "lines+markers+text"} if len(several) * len(own) <= 16 else {}
            figure.add_scatter(
                x=numbers(own["value_d"]), y=numbers(own["value_q"]), name=safe(variant),
                meta=own["series"].tolist(), hovertext=texts,
                hovertemplate="%{hovertext}<extra></extra>",
                text=labels,
                textposition=[("top center", "bottom center")[i % 2] for i in range(len(own))],
                cliponaxis=False, textfont={"size": 10.5},
                line={"color": look.colour, "width": 2, "dash": look.dash},
                marker=marker(look, 10),
                error_x=error_bars(_side(own, "d")), error_y=error_bars(_side(own, "q")),
                **({"mode": "lines+markers"} | named),
            )  # fmt: skip
        log_y(figure, here["value_q"], higher[0])
        ends = here[here["variant"].isin(several)]["value_d"]
        room = 0.25 * (float(ends.max() - ends.min()) or 1.0)
        figure.update_xaxes(range=[float(ends.min()) - room, float(ends.max()) + room])
        labels = [words.metric(m).label for m in (primary.quality, primary.diversity)]
        found.append(
            Figure(
                f"{prefix}trade-settings-{nfe}",
                f"Fronts over sampling settings at {nfe} NFE",
                "Each line is one training sampled in several ways: what guidance or temperature "
                "trades of one metric for the other.",
                spec(figure),
                400,
                ["Variant", "Setting", labels[0], "95 % interval", labels[1], "95 % interval"],
                table,
            )
        )
    return found


def _natural(text: str) -> list[tuple[float, str]]:
    """A sort key by the numbers in a text, in order."""
    parts = re.split(r"(-?\d+(?:\.\d+)?)", text)
    return [(float(p), "") if i % 2 else (0.0, p) for i, p in enumerate(parts)]


def _axes(
    both: pd.DataFrame, primary: Primary, height: int
) -> tuple[tuple[object, object], Drawing]:
    """Whether more of quality and of diversity is better, and an empty figure of the two."""
    higher = (both["higher_q"].iloc[0], both["higher_d"].iloc[0])
    x, y = axis_title(primary.diversity, higher[1]), axis_title(primary.quality, higher[0])
    return higher, blank(x, y, height)


def _side(rows: pd.DataFrame, side: str) -> pd.DataFrame:
    return pd.DataFrame({name: rows[f"{name}_{side}"] for name in ("value", "low", "high")})


def _front(rows: pd.DataFrame, more_q: bool, more_d: bool) -> pd.DataFrame:
    q = rows["value_q"].to_numpy() * (1 if more_q else -1)
    d = rows["value_d"].to_numpy() * (1 if more_d else -1)
    keep = [
        not any((q >= q[i]) & (d >= d[i]) & ((q > q[i]) | (d > d[i]))) for i in range(len(rows))
    ]
    return rows[keep].sort_values("value_d")
