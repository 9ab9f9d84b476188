"""The page: everything put together, a pure function of the runs' files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from piflow_reports import (
    ceiling,
    export,
    facts,
    figures,
    frames,
    heatmaps,
    html,
    inputs,
    pictures,
    styles,
    tables,
    verdicts,
    words,
)

CONTROLS = {
    "real-vs-real": "Held-out real samples scored as if they were generated, at the same n: what "
    "the data question would give a perfect generator.",
    "memoriser": "Training images themselves. It scores well without generating anything: a metric "
    "that it wins cannot see copying.",
    frames.CEILING: "The converged teacher sampled again from other noise: the best any student "
    "can reach in imitation.",
}


@dataclass(frozen=True)
class Section:
    """A run as the template sees it."""

    id: str
    run: inputs.Run
    context: dict[str, Any]
    rankings: list[tables.Ranking]


def write(folders: list[Path], out: Path) -> Path:
    """Write the page of some runs to ``out`` and their tables to ``exports/`` beside it."""
    runs = inputs.sections([inputs.read(folder) for folder in folders])
    sections = [section(run, f"r{i}-") for i, run in enumerate(runs)]
    page = render(sections)
    joint = pd.concat([run.results for run in runs], ignore_index=True)
    several = len(sections) > 1
    named = [(s.run.name if several else "", ranking) for s in sections for ranking in s.rankings]
    used = [v for run in runs for v in run.info.get("variants") or []]
    export.export(out.parent / "exports", joint, named, used)
    export.write_atomic(out, page)
    return out


def render(sections: list[Section]) -> str:
    """The page's text."""
    return html.render(
        "report.html.j2",
        " + ".join(s.context["title"] for s in sections),
        any(s.context["plots"] for s in sections),
        refresh=int(max((s.run.info.get("live") or {}).get("refresh", 0) for s in sections)),
        sections=sections,
    )


def section(run: inputs.Run, prefix: str) -> Section:
    """All that is shown of a run."""
    info, results = run.info, run.results
    primary = frames.primary(info, results)
    summary = frames.summarise(frames.final(results))
    nfes = frames.nfes(summary)
    order = frames.series_order(results, info)
    roles = dict(zip(*_columns(frames.with_series(results), "series", "role"), strict=True))
    looks = styles.assign(
        [s for s in order if roles[s] == "student"], [s for s in order if roles[s] == "teacher"]
    )
    pairs, pair_note = verdicts.comparisons(results, primary)
    ranked = tables.rankings(summary, nfes, order, primary, verdicts.ties(pairs))
    groups = figure_groups(run, summary, nfes, looks, order, primary, pairs, prefix)
    grids = pictures.sheets(run.grid, looks, order)
    context = {
        "title": str(info.get("title") or run.name),
        "question": str(info.get("question_text") or ""),
        "facts": facts.header(run, summary, primary),
        "alerts": facts.alerts(run, summary),
        "primary": primary,
        "labels": {
            "question": words.QUESTIONS.get(primary.question, primary.question),
            "quality": words.metric(primary.quality).label,
            "diversity": words.metric(primary.diversity).label,
        },
        "verdicts": verdicts.verdicts(summary, pairs, primary),
        "tracks": words.TRACKS,
        "pairs": verdicts.pair_rows(pairs),
        "pair_note": pair_note,
        "alone": verdicts.alone(summary),
        "level_note": verdicts.level_note(pairs),
        "ceiling": ceiling.ceiling(summary, nfes, order, primary),
        "rankings": ranked,
        "looks": looks,
        "figures": groups,
        "plots": sum(len(group["figures"]) for group in groups),
        "legend": [name for name in order if name in looks],
        "grids": grids,
        "controls": [(n, CONTROLS[n]) for n in CONTROLS if n in set(results["variant"])],
        "glossary": facts.glossary(summary),
        "agreement": ceiling.agreement(summary, nfes, primary),
        "nfes": nfes,
        "references": info.get("references") or [],
        "variants": facts.variant_facts(info),
        "provenance": facts.provenance(run),
        "command": str(info.get("command") or ""),
        "config": str(info.get("config") or ""),
    }
    return Section(prefix, run, context, [r for several in ranked.values() for r in several])


def _columns(frame: pd.DataFrame, *names: str) -> list[list[Any]]:
    return [frame[name].tolist() for name in names]


def figure_groups(
    run: inputs.Run,
    summary: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, styles.Style],
    order: list[str],
    primary: frames.Primary,
    pairs: pd.DataFrame,
    prefix: str,
) -> list[dict[str, Any]]:
    """The figures under their headings; a heading without figures is left out."""
    students = run.results[run.results["role"] == "student"]
    way = students["metric"].isin([primary.quality, primary.diversity])
    way &= students["question"] == primary.question
    by_budget = frames.summarise(students[way])
    groups = [
        (
            "Quality against diversity",
            "The two primary metrics together: a method can buy one with the other.",
            [
                *figures.trade_off(summary, nfes, looks, primary, prefix),
                *figures.path_along_nfe(summary, looks, order, primary, prefix),
            ],
        ),
        (
            "Paired differences",
            "Students against each other on the same noise, in the primary metrics.",
            heatmaps.differences(pairs, order, primary, prefix),
        ),
        (
            "Metrics against NFE",
            f"{words.QUESTIONS.get(primary.question, primary.question)}, at the full budget.",
            figures.against_nfe(summary, looks, order, primary, prefix),
        ),
        (
            "Metrics against training compute",
            "The same metrics at checkpoints on the way to the full budget.",
            figures.against_compute(by_budget, nfes, looks, order, primary, prefix),
        ),
        (
            "Training curves",
            "A loss is its method's own: it says whether training settled, not who is better.",
            figures.training(run.curves, looks, order, prefix),
        ),
        (
            "Costs",
            "Training is summed over what a variant runs; sampling is per sample.",
            figures.cost_bars(frames.costs(run.results), looks, order, prefix),
        ),
    ]
    keys = ("title", "note", "figures")
    return [dict(zip(keys, group, strict=True)) for group in groups if group[2]]
