"""Every measure as a figure of all sets with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from piflow_reports.figures import base as plots
from piflow_reports.format import names as words
from piflow_reports.scores.tables import interval_of, measures_of

from piflow_bench.evaluation.inference.cells import better_higher
from piflow_bench.evaluation.measured import WHOLE


def figures(scores: pd.DataFrame, order: Sequence[str]) -> list[plots.Figure]:
    """A figure for each measure: every set's value with its interval, in the order given."""
    whole = scores[scores["group"] == WHOLE]
    shown = []
    for number, measure in enumerate(measures_of(scores)):
        name, rows = measure.metric, measure.rows(whole)
        rows = rows.assign(place=[-order.index(each) for each in rows["set"]])
        if rows["ci_low"].isna().all():
            continue
        summary = rows.assign(low=rows["ci_low"], high=rows["ci_high"])
        height = 90 + 34 * len(rows)
        figure = plots.blank(plots.axis_title(name, better_higher(name)), "", height)
        figure.add_scatter(
            x=plots.numbers(rows["value"]),
            y=rows["place"].tolist(),
            error_x=plots.error_bars(summary),
            mode="markers",
            marker={"size": 9, "color": "#2a86c0"},
            text=[
                f"{plots.heading(row['set'])}<br>" + " ".join(plots.value_and_span(row))
                for row in summary.to_dict("records")
            ],
            hoverinfo="text",
        )
        figure.update_yaxes(
            tickvals=[-i for i in range(len(order))],
            ticktext=[plots.safe(words.short(each)) for each in order],
            range=[0.5 - len(order), 0.5],
            showgrid=False,
        )
        label, meaning = measure.label, words.metric(name).meaning
        table = [[row["set"], *plots.number_cells(row)] for row in summary.to_dict("records")]
        heads = ["Set", label, interval_of(scores)]
        text = plots.spec(figure)
        shown.append(plots.Figure(f"s{number}", label, meaning, text, height, heads, table))
    return shown
