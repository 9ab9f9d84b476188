"""The page: everything put together, a pure function of the runs' files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from piflow_reports import export, figures, frames, inputs, pictures, styles, tables, verdicts, words

HERE = Path(__file__).parent
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
    export.export(out.parent / "exports", joint, named)
    export.write_atomic(out, page)
    return out


def render(sections: list[Section]) -> str:
    """The page's text."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        arrow=words.arrow, duration=words.duration, compact=words.compact, dash=words.MISSING
    )
    title = " + ".join(s.context["title"] for s in sections)
    return environment.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        css=Markup((HERE / "static" / "report.css").read_text("utf-8")),
        script=Markup((HERE / "static" / "report.js").read_text("utf-8")),
        plotly=Markup(get_plotlyjs()) if any(s.context["plots"] for s in sections) else "",
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
    groups = figure_groups(run, summary, nfes, looks, order, primary, prefix)
    grids = pictures.sheets(run.grid, looks, order)
    context = {
        "title": str(info.get("title") or run.name),
        "question": str(info.get("question_text") or ""),
        "facts": facts(run, summary, primary),
        "alerts": alerts(run, summary),
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
        "ceiling": tables.ceiling(summary, nfes, order, primary),
        "rankings": ranked,
        "looks": looks,
        "figures": groups,
        "plots": sum(len(group["figures"]) for group in groups),
        "legend": [name for name in order if name in looks],
        "grids": grids,
        "controls": [(n, CONTROLS[n]) for n in CONTROLS if n in set(results["variant"])],
        "glossary": glossary(summary),
        "agreement": tables.agreement(summary, nfes, primary),
        "nfes": nfes,
        "references": info.get("references") or [],
        "variants": variant_facts(info),
        "provenance": provenance(run),
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
            figures.trade_off(summary, nfes, looks, primary, prefix),
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


def facts(run: inputs.Run, summary: pd.DataFrame, primary: frames.Primary) -> list[dict[str, str]]:
    """The header strip."""
    results = run.results
    cells = frames.with_series(results).drop_duplicates(
        ["series", "train_seed", "sample_seed", "nfe", "budget_fraction", "status"]
    )
    cells = cells[cells["role"] != "control"]
    done, failed = int((cells["status"] == "ok").sum()), int((cells["status"] != "ok").sum())
    students = results[results["role"] == "student"]
    seeds = sorted(int(s) for s in students["train_seed"].dropna().unique())
    counts = sorted({int(n) for n in summary["n"].dropna() if n > 0})
    sampled = sorted(int(s) for s in results["sample_seed"].dropna().unique())
    hashes = sorted(set(results["protocol"]) - {""})
    own = results[(results["question"] == primary.question) & (results["reference"] != "")]
    budget = students.loc[students["budget_tfe"] > 0, "budget_tfe"]
    extractors = sorted(set(results["extractor"]) - {""}, key=lambda e: (e != primary.extractor, e))
    found = [
        ("Experiment", str(run.info.get("experiment") or run.name), ""),
        ("Dataset", str(run.info.get("dataset") or words.MISSING), ""),
        ("Samples per cell", " / ".join(f"{n:,}" for n in counts) or words.MISSING, ""),
        ("Primary reference", _most(own["reference"]), ""),
        ("Train seeds", _listed(seeds), ""),
        ("Sample seeds", _listed(sampled), ""),
        ("Budget", f"{words.compact(budget.max())} TFE" if len(budget) else words.MISSING, ""),
        ("Features", ", ".join(extractors) or words.MISSING, ""),
        ("Protocol", ", ".join(h[:12] for h in hashes) or words.MISSING, ", ".join(hashes)),
        ("Cells", f"{done} done" + (f", {failed} failed" if failed else ""),
         "failed" if failed else ""),
    ]  # fmt: skip
    return [{"label": a, "value": b, "title": c} for a, b, c in found]


def _listed(items: list[int]) -> str:
    if not items:
        return words.MISSING
    return ", ".join(map(str, items)) if len(items) <= 6 else f"{items[0]} to {items[-1]}"


def _most(column: pd.Series) -> str:
    return str(column.mode().iloc[0]) if len(column) else words.MISSING


def alerts(run: inputs.Run, summary: pd.DataFrame) -> list[dict[str, str]]:
    """What went wrong, or weakens the numbers: first what failed, then warnings."""
    found = []
    told = set()
    for failure in run.info.get("failures") or []:
        names = [str(failure.get(key) or "") for key in ("variant", "stage")]
        reason = str(failure.get("reason") or "no reason recorded")
        told.add(reason)
        found.append(("failed", " · ".join(n for n in names if n), reason))
    failed = frames.with_series(run.results)
    failed = failed[failed["status"] != "ok"]
    for (series, reason), rows in failed.groupby(["series", "reason"], sort=True):
        if any(reason and (reason in text or text in reason) for text in told):
            continue
        at = sorted(int(n) for n in rows["nfe"].dropna().unique())
        where = f" · {', '.join(map(str, at))} NFE" if at else ""
        found.append(("failed", f"{series}{where}", reason or "no reason recorded"))
    ended = set(summary["variant"])
    for name in sorted(set(run.results["variant"]) - ended):
        found.append(("warning", name, "no checkpoint at the full budget: it is not ranked"))
    found += [("warning", "", str(text)) for text in run.info.get("warnings") or []]
    found += [("warning", "Protocols differ", t) for t in frames.protocol_clashes(run.results)]
    if any(commit.endswith("dirty") for commit in run.results["git_commit"].unique()):
        found.append(("warning", "", "the code had uncommitted changes"))
    return [dict(zip(("kind", "where", "text"), row, strict=True)) for row in found]


def glossary(summary: pd.DataFrame) -> list[dict[str, str]]:
    """The metrics of the page with their meanings."""
    names = set(frames.measured(summary)["metric"])
    return [
        {"label": m.label, "meaning": m.meaning, "name": name}
        for name, m in words.METRICS.items()
        if name in names
    ]


def variant_facts(info: dict[str, Any]) -> list[dict[str, str]]:
    """How each variant was set and tuned."""
    found = []
    for variant in info.get("variants") or []:
        blocks = {key: variant.get(key) for key in ("settings", "training") if variant.get(key)}
        tuning = variant.get("tuning")
        found.append(
            {
                **{
                    key: str(variant.get(key) or "")
                    for key in ("name", "method", "family", "track", "paper")
                },
                "tuning": _plain(tuning) or "not stated",
                "settings": json.dumps(blocks, indent=1, ensure_ascii=False, default=str)
                if blocks
                else "",
            }
        )
    return found


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return "" if value is None else str(value)


def provenance(run: inputs.Run) -> list[tuple[str, str]]:
    """Where, when and with what the run was made."""
    recorded = dict(run.info.get("provenance") or {})
    results = run.results
    for key in ("git_commit", "hardware"):
        values = sorted(set(results[key]) - {""})
        recorded.setdefault(key, ", ".join(values))
    versions = recorded.pop("versions", None)
    if versions is None:
        texts = sorted(set(results["versions"]) - {""})
        versions = texts[0] if texts else ""
    if recorded.get("seconds") is not None:
        recorded["duration"] = words.duration(float(recorded.pop("seconds")))
    rows = [(str(k).replace("_", " ").capitalize(), _plain(v)) for k, v in recorded.items()]
    return [row for row in [*rows, ("Versions", _plain(versions))] if row[1]]
