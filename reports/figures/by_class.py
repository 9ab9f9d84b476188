"""Per-class scatter: which classes a student does badly, and in what."""

from __future__ import annotations

import pandas as pd
from piflow_reports.data.series import Primary
from piflow_reports.figures.base import (
    Figure,
    axis_title,
    blank,
    heading,
    log_y,
    marker,
    numbers,
    safe,
    spec,
)
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

from piflow_bench.evaluation.inference.cells import better_higher


def by_class(
    breakdown: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, Style],
    order: list[str],
    primary: Primary,
    prefix: str,
) -> list[Figure]:
    """Each class's quality against its diversity, a point per class and series."""
    if "kind" not in breakdown:
        return []
    rows = breakdown[breakdown["kind"] == "class"]
    names = [primary.quality, primary.diversity]
    if not set(names) <= set(rows["metric"]) or names[0] == names[1]:
        return []
    found = []
    labels = [words.metric(m).label for m in names]
    for nfe in nfes:
        here = rows[rows["nfe"] == nfe]
        x, y = (axis_title(m, better_higher(m)) for m in names[::-1])
        figure = blank(x, y, 420)
        table = []
        for series in [s for s in order if s in looks]:
            own = here[here["series"] == series]
            wide = own.pivot_table(index="group", columns="metric", values="value", sort=False)
            if not set(names) <= set(wide.columns):
                continue
            counts = own.groupby("group")["n"].first()
            texts = [
                f"{heading(series)}, class {safe(str(group))}<br>"
                + "<br>".join(f"{label} {words.figures(float(row[m]), 4)}"
                              for label, m in zip(labels, names, strict=True))
                + f"<br>n = {int(counts[group]):,}"
                for group, row in wide.iterrows()
            ]  # fmt: skip
            figure.add_scatter(
                x=numbers(wide[names[1]]), y=numbers(wide[names[0]]), mode="markers",
                name=safe(series), meta=series, marker={**marker(looks[series], 8), "opacity": 0.8},
                text=texts, hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
            table += [
                [series, str(group), *(words.figures(float(row[m]), 4) for m in names)]
                for group, row in wide.iterrows()
            ]
        if not table:
            continue
        values = here.loc[here["metric"] == names[0], "value"]
        log_y(figure, values, better_higher(names[0]))
        found.append(
            Figure(
                f"{prefix}class-{nfe}",
                f"{labels[0]} and {labels[1]} by class, {nfe} NFE",
                "A point is a class, scored against the reference samples of that class; one train "
                "seed, no intervals. n is a class's own, so values compare with each other and "
                "not with those of whole sets.",
                spec(figure),
                420,
                ["Variant", "Class", *labels],
                table,
            )
        )
    return found
