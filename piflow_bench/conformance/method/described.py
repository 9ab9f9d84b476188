"""What there is to choose from: every method with its facts, as Markdown.

Costs are those of kept results. The page is written by

    python -m piflow_bench.conformance.method.described docs/results > docs/methods.md
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from piflow_bench import registry
from piflow_bench.contracts.method import Facts, Method
from piflow_bench.search import declared
from piflow_bench.tracks import ONE_BUDGET

BEGINNING = """# Methods

<!-- python -m piflow_bench.conformance.method.described docs/results > docs/methods.md -->

Every method of the package, from what it declares of itself; `python -m piflow_bench show NAME`
prints its settings, `check NAME` holds it to its facts. A variant of an experiment is a method with
settings. Costs are measured: training compute of one step in teacher forwards of its batch (TFE),
in the results that are kept beside this page, where it has been run."""


def page(folder: Path) -> str:
    """The page.

    Args:
        folder: kept results, a folder each; beside it ``methods.csv``, what the field has, and
            ``checkpoints.csv``, what of it is published as weights.
    """
    found = {name: plugin.load() for name, plugin in sorted(registry.find("method").items())
             if plugin.source == "piflow-bench"}  # fmt: skip
    costs = _costs(folder)
    parts = [BEGINNING, *_table(found, costs)]
    for name, cls in found.items():
        parts += _section(name, cls, costs.get(name, {}))
    parts += _of_the_field(pd.read_csv(folder.parent / "methods.csv", dtype=str).fillna(""))
    parts += _checkpoints(pd.read_csv(folder.parent / "checkpoints.csv", dtype=str).fillna(""))
    return "\n\n".join(parts) + "\n"


Costs = dict[str, list[float]]
"""TFE of a training step by variant; of trials, those of all that try one variant's settings."""


def _costs(folder: Path) -> dict[str, Costs]:
    """What steps cost, by method."""
    found: dict[str, Costs] = {}
    for path in sorted(folder.rglob("results.parquet")):
        rows = pd.read_parquet(path)
        trained = (rows["role"] == "student") & (rows["train_steps"] > 0)
        rows = rows[trained & (rows["budget_fraction"] == 1)]
        rows = rows[rows["track"] != ONE_BUDGET]
        rows = rows.assign(cost=rows["train_tfe"] / rows["train_steps"])
        about = json.loads((path.parent / "run.json").read_text("utf-8"))["variants"]
        tries = {v["name"]: f"trials of {v['trial_of']}" for v in about if v.get("trial_of")}
        for (method, variant), own in rows.groupby(["method", "variant"]):
            name, costs = str(variant), found.setdefault(str(method), {})
            if name in tries or name not in costs:
                costs.setdefault(tries.get(name, name), []).append(float(own["cost"].median()))
    return found


def _range(costs: list[float], digits: int) -> str:
    least, most = (f"{value:.{digits}g}" for value in (min(costs), max(costs)))
    return least if least == most else f"{least} to {most}"


def _table(found: dict[str, type[Method]], costs: dict[str, Costs]) -> Iterator[str]:
    lines = ["| method | family | needs | NFE | TFE a step | settings tuned |",
             "|---|---|---|---|---:|---:|"]  # fmt: skip
    for name, cls in found.items():
        facts = cls.facts
        own = [cost for each in costs.get(name, {}).values() for cost in each]
        cost = _range(own, 2) if own else ""
        lines.append(
            f"| [`{name}`](#{name}) | {facts.family} | {', '.join(_needs(facts)) or 'no more'} | "
            f"{_nfes(facts)} | {cost} | {len(declared(cls.Config)) if facts.trains else ''} |"
        )
    yield "\n".join(lines)


def _needs(facts: Facts) -> list[str]:
    """What it needs beside the teacher."""
    jvp = {"exact": "JVP", "finite difference": "difference quotient"}.get(facts.jvp)
    return [
        *(["data"] if facts.needs_data else []),
        *(["no teacher"] if not facts.needs_teacher else []),
        *([jvp] if jvp else []),
        *(f"network `{name}`" for name in facts.auxiliary),
        *(f"{part} of the backbone" for part in facts.backbone),
        *([f"reward `{facts.reward}`"] if facts.reward else []),
        *(["published weights"] if facts.published else []),
    ]


def _nfes(facts: Facts) -> str:
    served = "any" if facts.nfes is None else ", ".join(map(str, facts.nfes))
    return f"{served}, one training" if facts.elastic and facts.trained_here else served


def _section(name: str, cls: type[Method], costs: Costs) -> Iterator[str]:
    facts = cls.facts
    yield f"## {name}"
    yield inspect.getdoc(cls) or ""
    lines = []
    if facts.target:
        lines.append(f"- Its optimum lies {facts.target}.")
    lines.append(f"- Needs: {', '.join(_needs(facts)) or 'the teacher alone'}.")
    if facts.paper:
        lines.append(f"- Paper: {facts.paper.replace(':', ' ')}.")
    if facts.fidelity:
        lines.append(f"- How near to it: {facts.fidelity}.")
    space = declared(cls.Config)
    if space:
        looked = "; ".join(f"`{key}` ({search})" for key, search in space.items())
        lines.append(f"- Trials look at: {looked}.")
    if costs:
        measured = ", ".join(f"{name} {_range(own, 3)}" for name, own in costs.items())
        lines.append(f"- TFE a step, as measured: {measured}.")
    yield "\n".join(lines)


def _of_the_field(rows: pd.DataFrame) -> Iterator[str]:
    """Every method that papers have, and where it is."""
    yield "## Of the field"
    yield "What papers call these methods, and what is not here, with the reason."
    lines = ["| method | paper | here |", "|---|---|---|"]
    for name, paper, method, words in rows.itertuples(index=False):
        here = ": ".join(
            part for part in (f"[`{method}`](#{method})" * bool(method), words) if part
        )
        lines.append(f"| {name} | {paper and f'arXiv {paper}'} | {here} |")
    yield "\n".join(lines)


def _checkpoints(rows: pd.DataFrame) -> Iterator[str]:
    """Published weights on ImageNet, and how they are scored."""
    yield "## Published checkpoints"
    yield (
        "Weights of few-step models on ImageNet that others trained, and the settings of\n"
        "[`few-step`](#few-step) that score them without training ([imagenet.md](imagenet.md) has\n"
        "the command). A layout is read from its own source alone, in the files and at the commit\n"
        "named. No published file was at hand: tests write tiny ones of the same names and shapes."
    )
    lines = [
        "| weights | paper | where | file | layout read in | here |",
        "|---|---|---|---|---|---|",
    ]
    for weights, paper, where, kind, source, words in rows.itertuples(index=False):
        settings, _, more = words.partition("; ")
        loads = settings.startswith("layout=")
        here = "; ".join([f"`{settings}`", *([more] if more else [])]) if loads else words
        place = f"`{where}`" if where.startswith("hf://") else where
        lines.append(f"| {weights} | arXiv {paper} | {place} | {kind} | {source} | {here} |")
    yield "\n".join(lines)


if __name__ == "__main__":
    print(page(Path(sys.argv[1])), end="")
