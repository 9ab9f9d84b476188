"""The page: everything put together, a pure function of the runs' files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from piflow_reports import first_screen as glance
from piflow_reports import summary
from piflow_reports.data import merge
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.data.run import Run
from piflow_reports.export import tables as export
from piflow_reports.figures import base as plots
from piflow_reports.figures import by_class as classes
from piflow_reports.figures import costs as cost_bars
from piflow_reports.figures import (
    curves,
    explorer,
    extractors,
    heatmaps,
    sensitivity,
    stills,
    tradeoffs,
    wall_time,
    within,
)
from piflow_reports.format import html, styles
from piflow_reports.format import names as words
from piflow_reports.pictures.budget import within_budget
from piflow_reports.pictures.selections import memorised
from piflow_reports.sections import agreement, ceiling, comparisons, facts, trials, verdicts, ways
from piflow_reports.sections import rankings as tables
from piflow_reports.sections import remake as cells

from piflow_bench.files.atomic import write_text
from piflow_bench.tracks import ONE_BUDGET
from piflow_bench.tuning.choice import Trials

CONTROLS = {
    "real-vs-real": "Held-out real samples scored as if they were generated, at the same n: what "
    "the data question would give a perfect generator.",
    "memoriser": "Training images themselves. It scores well without generating anything: a metric "
    "that it wins cannot see copying.",
    frames.CEILING: "The converged teacher redrawn: sampled again from other noise. What the "
    "imitation question gives the teacher itself, at the same n.",
}


@dataclass(frozen=True)
class Section:
    """A run as the template sees it."""

    id: str
    run: Run
    context: dict[str, Any]
    rankings: list[tables.Ranking]

    @property
    def figures(self) -> list[plots.Figure]:
        """All of them: the first screen's trade-offs, then those under their headings."""
        first = [each.figure for each in self.context["glances"] if each.figure]
        return [*first, *(f for group in self.context["figures"] for f in group["figures"])]


def write(folders: list[Path], out: Path, figures: bool = False) -> Path:
    """Write the page of some runs to ``out`` and their tables to ``exports/`` beside it.

    With ``figures`` every figure as well, as SVG and PNG.
    """
    runs = merge.sections(inputs.read_all(folders))
    sections = [section(run, f"r{i}-", len(runs)) for i, run in enumerate(runs)]
    page = render(sections)
    joint = pd.concat([run.results for run in runs], ignore_index=True)
    several = len(sections) > 1
    named = [(s.run.name if several else "", ranking) for s in sections for ranking in s.rankings]
    used = [v for run in runs for v in run.info.get("variants") or []]
    export.export(out.parent / "exports", joint, named, used)
    write_text(out, page)
    if figures:
        drawn = {
            figure.id if several else figure.id.removeprefix(s.id): figure
            for s in sections
            for figure in s.figures
        }
        stills.write_stills(drawn, out.parent / "exports" / "figures")
    return out


def render(sections: list[Section]) -> str:
    """The page's text."""
    return html.render(
        "report.html.j2",
        " + ".join(s.context["title"] for s in sections),
        any(s.context["plots"] for s in sections),
        live=next((s.run.info["live"] for s in sections if s.run.info.get("live")), None),
        sections=sections,
        apart=merge.rules_apart([s.run for s in sections]),
    )


def section(run: Run, prefix: str, families: int = 1) -> Section:
    """All that is shown of a run; ``families`` runs share the page's share of false reports."""
    run = replace(run, results=frames.with_series(run.results))
    info, results = run.info, run.results
    found = summary.of(run, families)
    primary, pairs, nfes, order = found.primary, found.pairs, found.nfes, found.order
    # Figures hold what has a budget for each NFE; tables also who shares one over all.
    cells_of_whole = found.cells[found.cells["track"] != ONE_BUDGET]
    named = frames.with_series(results)
    roles = dict(zip(*_columns(named, "series", "role"), strict=True))
    variants = dict(zip(*_columns(named, "series", "variant"), strict=True))
    drawn = set(named.loc[named["track"] != ONE_BUDGET, "series"])
    looks = styles.assign(
        *(
            {s: variants[s] for s in order if roles[s] == role and s in drawn}
            for role in ("student", "teacher")
        )
    )
    run = _with_series(run)
    whole = replace(run, results=run.results[run.results["track"] != ONE_BUDGET])
    trade_offs = tradeoffs.trade_off(cells_of_whole, nfes, looks, primary, prefix)
    glances = glance.glances(replace(found, run=run), trade_offs, looks, prefix)
    by_budget = frames.by_budget(whole.results, primary)
    groups = figure_groups(
        whole, cells_of_whole, by_budget, nfes, looks, order, variants, primary, pairs, prefix
    )
    if found.trials:
        groups = [_sensitivity(found.trials, prefix), *groups]
    grids, picked = within_budget(run.grid, run.selections, looks, order, nfes,
                                           glance.size(glances))  # fmt: skip
    axes = explorer.explorer(
        cells_of_whole, frames.costs(whole.results), nfes, looks, order, primary
    )
    strip = facts.header(run, cells_of_whole, primary)
    context = {
        "title": str(info.get("title") or run.name),
        "question": facts.question(info, nfes),
        "in_short": facts.in_short(run, cells_of_whole, primary),
        "glances": glances,
        "facts": strip,
        "trials": trials.rows(found.trials) if found.trials else [],
        "trials_metric": words.metric(found.trials.metric) if found.trials else None,
        "trials_higher": found.trials.higher if found.trials else None,
        "alerts": facts.alerts(run, found.cells),
        "primary": primary,
        "labels": {
            "question": words.QUESTIONS.get(primary.question, primary.question),
            "quality": words.metric(primary.quality),
            "diversity": words.metric(primary.diversity),
        },
        "verdicts": found.verdicts,
        "tracks": words.TRACKS,
        "shared_budget": ONE_BUDGET in set(found.cells["track"]),
        "pairs": comparisons.pair_rows(pairs),
        "pair_note": found.pair_note,
        "alone": verdicts.alone(cells_of_whole),
        "targets": facts.targets(info, primary),
        "level_note": found.level_note,
        "ceiling": ceiling.ceiling(cells_of_whole, nfes, order, primary),
        "rankings": found.tables,
        "looks": looks,
        "figures": groups,
        "plots": bool(groups or any(each.figure for each in glances)),
        "explorer": axes,
        "legend": [name for name in order if name in looks],
        "grids": grids,
        "picked": picked,
        "memorised": memorised(run.selections, order),
        "origins": [_origin(r, primary) for r in run.merged or (run,)],
        "filters": _filters(found.tables),
        "controls": [(n, CONTROLS[n]) for n in CONTROLS if n in set(results["variant"])],
        "glossary": facts.glossary(cells_of_whole),
        "agreement": agreement.agreement(cells_of_whole, by_budget, nfes, primary),
        "nfes": nfes,
        "references": info.get("references") or [],
        "elsewhere": info.get("elsewhere") or [],
        "variants": facts.variant_facts(info),
        "protocols": facts.protocols(results),
    }
    return Section(prefix, run, context, [r for several in found.tables.values() for r in several])


def _origin(run: Run, primary: frames.Primary) -> dict[str, Any]:
    """Where a run's numbers come from, and what makes them again."""
    return {
        "name": run.name,
        "provenance": facts.provenance(run),
        "command": str(run.info.get("command") or ""),
        "config": str(run.info.get("config") or ""),
        "cells": cells.cells(run.results, run.info, primary),
    }


def _columns(frame: pd.DataFrame, *names: str) -> list[list[Any]]:
    return [frame[name].tolist() for name in names]


def _with_series(run: Run) -> Run:
    """The run with the series' names on its pictures and on its values by class and size."""
    names = frames.series_names(run.results)
    grid, picks, parts = run.grid, run.selections, run.breakdown
    if len(parts):
        rows = frames.name_series(parts.to_dict("records"), names)  # type: ignore[arg-type]
        parts = parts.assign(series=[row["series"] for row in rows])
    return replace(
        run,
        breakdown=parts,
        grid=grid and replace(grid, rows=frames.name_series(grid.rows, names)),
        selections=picks and replace(picks, cells=frames.name_series(picks.cells, names)),
    )


def _filters(ranked: dict[int, list[tables.Ranking]]) -> dict[str, list[str]]:
    """What the rankings can be narrowed to; a choice of one is none."""
    rows = [
        row
        for several in ranked.values()
        for ranking in several
        for group in ranking.groups
        for row in group.rows
    ]
    seeds = {seed for row in rows for cell in row.cells for seed in cell.by_seed}
    found = {
        "method": sorted({row.method for row in rows if row.method}),
        "family": sorted({row.family for row in rows if row.family}),
        "nfe": [str(nfe) for nfe in ranked],
        "seed": [str(seed) for seed in sorted(seeds)],
    }
    return {name: choices for name, choices in found.items() if len(choices) > 1}


def _sensitivity(tried: Trials, prefix: str) -> dict[str, Any]:
    """The group of figures of a run that chooses settings."""
    return {
        "title": "Sensitivity",
        "note": "The metric that decides, of every trial, against each setting.",
        "figures": sensitivity.sensitivity(tried, prefix),
    }


def _drawn(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs[pairs["track"] != ONE_BUDGET] if len(pairs) else pairs


def _clock(info: dict[str, Any]) -> tuple[str, int]:
    """The unit of training time, and how many processes a training had."""
    provenance = info.get("provenance") or {}
    on_gpu = str(provenance.get("device", "")).startswith("cuda")
    return "GPU-hours" if on_gpu else "process-hours", int(provenance.get("processes") or 1)


def figure_groups(
    run: Run,
    summary: pd.DataFrame,
    by_budget: pd.DataFrame,
    nfes: list[int],
    looks: dict[str, styles.Style],
    order: list[str],
    variants: dict[str, str],
    primary: frames.Primary,
    pairs: pd.DataFrame,
    prefix: str,
) -> list[dict[str, Any]]:
    """The figures under their headings; a heading without figures is left out."""
    references = run.info.get("references") or []
    parts = run.breakdown
    groups = [
        (
            "Quality against diversity",
            "Along NFE and over settings of sampling; each NFE by itself is on the first screen.",
            [
                *tradeoffs.path_along_nfe(summary, looks, order, primary, prefix),
                *tradeoffs.along_settings(summary, nfes, looks, primary, prefix),
                *tradeoffs.at_the_chosen(
                    ways.chosen(summary, primary, ways.bases(run)), looks, primary, prefix
                ),
            ],
        ),
        (
            "Paired differences",
            "Students against each other on the same noise, in the primary metrics; only those "
            "of the declared family are tested.",
            heatmaps.differences(_drawn(pairs), order, primary, prefix),
        ),
        (
            "Metrics against NFE",
            f"{words.QUESTIONS.get(primary.question, primary.question)}, at the full budget.",
            curves.against_nfe(summary, looks, order, primary, prefix, references),
        ),
        (
            "Metrics against time",
            "What a sample takes, the teacher's solvers among the lines: NFEs differ in cost.",
            wall_time.against_time(summary, run.results, looks, order, primary, prefix),
        ),
        (
            "Metrics against training",
            "The same metrics at checkpoints on the way to the full budget.",
            curves.against_compute(
                by_budget, nfes, looks, order, primary, prefix, *_clock(run.info)
            ),
        ),
        (
            "Sample count",
            "A Fréchet distance is biased upwards by an amount that falls with the sample count.",
            curves.against_size(parts, nfes, looks, order, prefix),
        ),
        (
            "Classes",
            "Where a student is good and where it is not.",
            [
                *within.within(parts, nfes, looks, order, prefix),
                *classes.by_class(parts, nfes, looks, order, primary, prefix),
            ],
        ),
        (
            "Rank agreement",
            "Whether other features, and the other question, rank the students alike.",
            [
                *extractors.ratios(summary, nfes, looks, order, prefix),
                *heatmaps.agreement(summary, nfes, primary, prefix),
            ],
        ),
        (
            "Training curves",
            "A loss is its method's own: it says whether training settled, not who is better.",
            curves.training(run.curves, looks, order, variants, prefix),
        ),
        (
            "Costs",
            "Training is summed over what a variant runs; sampling is per sample.",
            [
                *cost_bars.cost_bars(frames.costs(run.results), looks, order, prefix),
                *cost_bars.evaluations(run.results, looks, order, prefix),
            ],
        ),
    ]
    keys = ("title", "note", "figures")
    return [dict(zip(keys, group, strict=True)) for group in groups if group[2]]
