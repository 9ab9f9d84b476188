"""Bars of what every variant cost."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from piflow_reports.data.series import final, with_series
from piflow_reports.figures.base import Figure, blank, heading, safe, spec, wide
from piflow_reports.format import names as words
from piflow_reports.format.styles import Style

from piflow_bench.pipeline.results.schema import Status

CHARACTER = 7
"""Pixels that a character of a number takes."""
COSTS = (
    ("train_tfe", "Training compute (TFE)", words.compact, False),
    ("train_seconds", "Training time", words.duration, False),
    ("flops_per_sample", "FLOPs per sample", words.compact, True),
    ("sample_seconds", "Time per sample", words.duration, True),
    ("policy_seconds", "Time per sample outside the network", words.duration, True),
    ("train_memory", "Peak memory of training", words.size, False),
    ("sample_memory", "Peak memory of sampling", words.size, True),
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
            for row in own.to_dict("records"):
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
                hovertext=[f"{heading(name)}{suffix}: {text}"], hoverinfo="text", width=0.7,
            )  # fmt: skip
        figure.update_yaxes(
            tickvals=list(range(len(labels))), autorange="reversed", showgrid=False, ticks="",
            ticktext=[
                safe(name + suffix)
                for name, (_, suffix) in zip(
                    words.shortened([n for n, _ in labels], 18), labels, strict=True
                )
            ],
        )  # fmt: skip
        log = wide(pd.Series(values), 30)
        low, high = min(values), max(values)
        reach = [np.log10(low) - 0.3, np.log10(high)] if log else [0, high]
        # Every bar carries its number, so the axis needs none; the margin has room for the longest.
        figure.update_xaxes(
            range=[float(v) for v in reach], type="log" if log else "linear", visible=False
        )
        room = 12 + CHARACTER * max(map(len, texts))
        figure.update_layout(margin={"l": 10, "r": room, "t": 4, "b": 8})
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


# No variant's colours: a network's role is not a variant.
NETWORKS = {"student": "#5f6f80", "teacher": "#aab4be"}
OTHERS = ("#8c6d46", "#7d5fa6", "#4f8a8b")


def evaluations(
    results: pd.DataFrame, looks: dict[str, Style], order: list[str], prefix: str
) -> list[Figure]:
    """Network evaluations in training, by the network's role: what the budget was spent on."""
    rows = with_series(final(results))
    rows = rows[(rows["role"] == "student") & (rows["status"] == Status.OK)]
    counts: dict[str, dict[str, float]] = {}
    for name in [s for s in order if s in looks]:
        texts = rows.loc[rows["series"] == name, "train_rows"]
        spent = [_counted(text) for text in texts.unique()]
        if spent and any(spent):
            roles = dict.fromkeys(role for each in spent for role in each)
            counts[name] = {r: float(np.median([e.get(r, 0) for e in spent])) for r in roles}
    if not counts:
        return []
    roles = list(dict.fromkeys(role for each in counts.values() for role in each))
    others = list(dict.fromkeys(_network(role) for role in roles))
    others = [network for network in others if network not in NETWORKS]
    colours = NETWORKS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}
    height = 130 + 27 * len(counts)
    figure = blank("Rows through a network", "", height)
    names = list(counts)
    for role in roles:
        values = [counts[name].get(role, 0.0) for name in names]
        figure.add_bar(
            # Nothing is no bar, which would have an edge.
            x=[v or None for v in values], y=list(range(len(names))), orientation="h", width=0.7,
            name=safe(_plain(role)), hoverinfo="text",
            marker=_fill(colours[_network(role)], role.endswith("/grad")),
            hovertext=[f"{heading(n)}: {words.compact(v)} rows, {safe(_plain(role))}"
                       for n, v in zip(names, values, strict=True)],
        )  # fmt: skip
    figure.update_layout(barmode="stack", showlegend=True, margin={"l": 10, "r": 10, "t": 4},
                         legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})  # fmt: skip
    figure.update_yaxes(
        tickvals=list(range(len(names))), autorange="reversed", showgrid=False, ticks="",
        ticktext=[safe(name) for name in words.shortened(names, 18)],
    )  # fmt: skip
    table = [
        [name, _plain(role), words.compact(value)]
        for name in names
        for role, value in counts[name].items()
    ]
    return [
        Figure(
            f"{prefix}cost-evaluations",
            "Network evaluations in training",
            "Forward rows by role, one training at the full budget (median over trainings). "
            "Solid: with gradient.",
            spec(figure),
            height,
            ["Variant", "Network", "Rows"],
            table,
        )
    ]


def _counted(text: str) -> dict[str, float]:
    return {role: n for role, n in json.loads(text).items() if words.finite(n)}


def _fill(colour: str, solid: bool) -> dict[str, Any]:
    """A bar's look; hatched bars are told apart in print as well."""
    hatched = {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(0,0,0,0)", "size": 6}
    return {"color": colour, "line": {"color": colour, "width": 1}} | (
        {} if solid else {"pattern": hatched}
    )


def _network(role: str) -> str:
    return role.partition("/")[0].partition(".")[0]


def _plain(role: str) -> str:
    """A role as counted, "fake_score/grad", in words."""
    network, _, kind = role.partition("/")
    return network.replace("_", " ").replace(".", ", ") + {"grad": ", with gradient", "": ""}.get(
        kind, f", {kind}"
    )
