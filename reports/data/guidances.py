"""Runs of one teacher under several guidances, which share a page where all is asked of real data.

Against real data guidance is a way of sampling, and each method is shown at the scale that suits
it. Of a run's own teacher it says nothing then: the distance to that teacher's samples from the
same noise would rank students by different targets, and is left out.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from piflow_reports.data.run import Run
from piflow_reports.data.series import CEILING, better_higher, primary, select

from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.evaluation.protocols import OF_DATA, Rules, guidance_of, rules_hash, unguided


def rules_of(run: Run) -> Rules:
    """The rules behind a run's rows; empty where it tells none."""
    found: Rules = json.loads(next((text for text in run.results["rules"] if text != "{}"), "{}"))
    return found


def alike(a: Run, b: Run) -> bool:
    """Whether two runs ask of real data alone, by rules that differ in guidance at most."""
    rules = [rules_of(run) for run in (a, b)]
    asked = {*a.results["question"], *b.results["question"]} - {""}
    said = primary(a.info, a.results)
    beside = {said.quality, said.diversity} & _of_teacher()
    told = all(rules) and all(_told(each) for each in rules)
    return asked <= {*OF_DATA} and told and not beside and unguided(rules[0]) == unguided(rules[1])


def _told(rules: Rules) -> bool:
    return all(isinstance(value, int | float) for value in guidance_of(rules).values())


def _of_teacher() -> set[str]:
    """Metrics that compare samples with the teacher's."""
    return {name for name, metric in all_metrics().items() if "teacher" in metric.needs}


def joined(runs: list[Run]) -> tuple[list[Run], list[dict[str, str]], list[str]]:
    """Runs of several guidances under the rules that they share.

    Returns:
        the runs, each variant's name in each run where it gets another, and what a reader must
        know. Teachers and controls that one run samples unlike another have the guidance in their
        names, but for the converged teacher that is nearest to the data: it is the page's ceiling.
    """
    guidances = [guidance_of(rules_of(run)) for run in runs]
    if all(own == guidances[0] for own in guidances):
        return runs, [{} for _ in runs], []
    labels = [_label(own) for own in guidances]
    nearest = _nearest(runs, labels)
    names = [
        {
            name: f"{name} (guidance {label})"
            for name in _guided(run, one_interval=len({_interval(g) for g in guidances}) == 1)
            if (name, label) != (CEILING, nearest)
        }
        for run, label in zip(runs, labels, strict=True)
    ]
    scales = ", ".join(dict.fromkeys(labels))
    notes = [
        f"Teachers of several guidances ({scales}): what compares samples with the teacher's from "
        "the same noise is left out."
    ]
    if nearest:
        notes.append(
            f"{CEILING} is of guidance {nearest}, the nearest to the data of those measured."
        )
    return [_of_data(run) for run in runs], names, notes


def _label(guidance: dict[str, Any]) -> str:
    low, high = _interval(guidance)
    scale = f"{guidance.get('guidance', 1.0):g}"
    return scale if (low, high) == (0.0, 1.0) else f"{scale} for t in {low:g} to {high:g}"


def _interval(guidance: dict[str, Any]) -> tuple[float, float]:
    return guidance.get("guidance_low", 0.0), guidance.get("guidance_high", 1.0)


def _guided(run: Run, one_interval: bool) -> list[str]:
    """Teachers and controls whose samples depend on the guidance of the run's teacher."""
    rows = run.results[run.results["role"] != "student"]
    # A scale of the variant's own is in its sampler; its interval is the teacher's.
    own = rows["sampler"].str.contains("guidance=") & one_interval
    depends = (rows["guidance"].notna() & ~own) | (rows["variant"] == CEILING)
    return sorted(set(rows.loc[depends, "variant"]))


def _nearest(runs: list[Run], labels: list[str]) -> str:
    """The guidance whose converged teacher is best by the primary quality; empty: none has it."""
    said = primary(runs[0].info, runs[0].results)
    found: dict[str, float] = {}
    for run, label in zip(runs, labels, strict=True):
        rows = select(run.results, said.question, said.quality, said.extractor)
        values = rows.loc[rows["variant"] == CEILING, "value"].dropna()
        if len(values):
            found.setdefault(label, float(values.iloc[0]))
    best = max if better_higher(said.quality) else min
    return best(found, key=lambda label: found[label]) if found else ""


def _of_data(run: Run) -> Run:
    """The run under rules without guidance, and without what compares it with its own teacher."""
    rules = unguided(rules_of(run))
    results = run.results[~run.results["metric"].isin(_of_teacher())].copy()
    stated = results["protocol"] != ""
    results.loc[stated, "protocol"] = rules_hash(rules)
    results.loc[stated, "rules"] = json.dumps(rules, sort_keys=True)
    return replace(run, results=results.reset_index(drop=True))
