"""The results of a run: one parquet of tidy rows, training curves, sample grids, and run.json."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import piflow_bench
from piflow_bench.config.schema import to_plain
from piflow_bench.files.atomic import write_atomically
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.launchers.schedule import Outcome
from piflow_bench.pipeline.outdated import warnings_of
from piflow_bench.pipeline.plan import Cell, Plan
from piflow_bench.pipeline.stage import Stage, Task
from piflow_bench.pipeline.stages import breakdown, selection
from piflow_bench.pipeline.stages.breakdown import BreakDown
from piflow_bench.pipeline.stages.scores import ScoreSamples
from piflow_bench.pipeline.stages.selection import Select
from piflow_bench.pipeline.store.store import Store
from piflow_bench.pipeline.store.uses import settings_digest
from piflow_bench.provenance import git_commit, versions
from piflow_bench.sources import package_digest
from piflow_bench.training.output import checkpoints, log_rows

COST_AND_PROVENANCE = (
    "train_seconds",
    "sample_seconds",
    "policy_seconds",
    "train_memory",
    "sample_memory",
    "git_commit",
    "versions",
    "hardware",
    "node",
    "train_hardware",
    "sample_hardware",
    "start",
    "duration",
    "run",
)
"""Columns that may differ between two runs of the same experiment."""
GRID_COLUMNS = 40
POINTS_SHOWN = 2000
LOG_LINES = 5
"""Last lines of a failed stage's log that the report shows."""


def _costs(cell: Cell, store: Store) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if cell.distill is not None and store.has(cell.distill):
        table = checkpoints(store.path(cell.distill))
        row = table[cell.checkpoint or 0]
        columns |= {
            "budget_tfe": row["tfe"],
            "train_tfe": row["tfe"],
            "train_images": row["images"],
            "train_seconds": row["seconds"],
            "train_steps": row["step"],
            "train_rows": json.dumps(row["rows"], sort_keys=True),
            "params": row["params"],
            "train_memory": row.get("memory", np.nan),
        }
    if cell.samples and all(store.has(s) for s in cell.samples):
        shards = [artifacts.facts(store.path(s)) for s in cell.samples]
        n = sum(s["n"] for s in shards)
        for name in ("flops_per_sample", "sample_seconds", "policy_seconds"):
            columns[name] = sum(s.get(name, np.nan) * s["n"] for s in shards) / n
        columns["sample_memory"] = max(s.get("memory", np.nan) for s in shards)
        columns["nfe"] = shards[0]["nfe"]
    return columns


def _provenance(cell: Cell, store: Store, stage: Stage | None = None) -> dict[str, str]:
    """Commit, versions, machine of what a row comes from: training, samples, its own artifact.

    Where they differ each is named once, in that order.
    """
    training = [cell.distill] if cell.distill is not None else []
    own = [stage] if stage is not None else []
    line = [store.meta(s) for s in (*training, *cell.samples, *own) if store.has(s)]

    def each(name: str, metas: Sequence[Mapping[str, Any]] = line) -> str:
        return ", ".join(dict.fromkeys(str(m[name]) for m in metas if m.get(name)))

    packages = dict.fromkeys(name for meta in line for name in meta["versions"])
    versions = {
        name: ", ".join(dict.fromkeys(m["versions"][name] for m in line if name in m["versions"]))
        for name in packages
    }
    return {
        "git_commit": each("git_commit"),
        "versions": json.dumps(versions, sort_keys=True),
        "hardware": each("hardware"),
        "node": each("node"),
        "train_hardware": each("hardware", [store.meta(s) for s in training if store.has(s)]),
        "sample_hardware": each("hardware", [store.meta(s) for s in cell.samples if store.has(s)]),
    }


def _empty_columns() -> dict[str, Any]:
    return {
        "budget_tfe": 0.0,
        "train_tfe": 0.0,
        "train_images": 0.0,
        "train_seconds": 0.0,
        "train_steps": 0.0,
        "train_rows": "{}",
        "params": np.nan,
        "flops_per_sample": np.nan,
        "sample_seconds": np.nan,
        "policy_seconds": np.nan,
        "train_memory": np.nan,
        "sample_memory": np.nan,
        "interval": "",
        "estimand": "",
        "estimator": "",
    }


def _directions() -> dict[str, bool | None]:
    from piflow_bench.evaluation.metrics.metric import all_metrics

    return {name: metric.higher_is_better for name, metric in all_metrics().items()}


def results_table(plan: Plan, store: Store, outcome: Outcome) -> pd.DataFrame:
    """One row per cell and metric; failed cells have one row per question, with the reason."""
    directions = _directions()
    config = plan.config
    rules = json.dumps(plan.rules, sort_keys=True)
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        common = {
            "run": config.name,
            "experiment": config.experiment_file,
            **_empty_columns(),
            **cell.columns,
            **_costs(cell, store),
            "sample_seed": config.sample_seed,
            "protocol": plan.protocol_hash,
            "rules": rules,
            **_provenance(cell, store),
        }
        for stage in cell.results:
            about = {
                "question": getattr(stage.task, "question", config.protocol.primary_question),
                "extractor": getattr(stage.task, "extractor", "samples"),
                "reference": _reference_text(stage, plan),
                "artifact": stage.key,
            }
            if store.has(stage):
                meta = store.meta(stage)
                times = {"start": meta["started"], "duration": meta["duration"]}
                times |= _provenance(cell, store, stage)
                for score in artifacts.scores(store.path(stage)):
                    rows.append(
                        {
                            **common,
                            **about,
                            **times,
                            **asdict(score),
                            "higher_is_better": directions.get(score.metric),
                            "status": "ok",
                            "reason": "",
                        }
                    )
            else:
                failure = outcome.failures.get(stage.key)
                rows.append(
                    {
                        **common,
                        **about,
                        "start": "",
                        "duration": np.nan,
                        "metric": config.protocol.primary_quality,
                        "value": np.nan,
                        "ci_low": np.nan,
                        "ci_high": np.nan,
                        "n": 0,
                        "replicates": [],
                        "higher_is_better": directions.get(config.protocol.primary_quality),
                        "status": "failed",
                        "reason": failure.reason if failure else "not computed",
                    }
                )
    table = pd.DataFrame(rows)
    for name in ("train_seed", "nfe"):
        table[name] = table[name].astype("Int64")
    table["guidance"] = table["guidance"].astype("float64")
    return table


def _reference_text(stage: Stage, plan: Plan) -> str:
    config = plan.config
    if isinstance(stage.task, ScoreSamples):
        return "converged teacher, same noise"
    question = getattr(stage.task, "question", None)
    if question == "imitation":
        return (
            f"{config.protocol.reference_samples} converged samples of the guided teacher "
            f"({config.converged})"
        )
    if question == "truth":
        return f"{config.protocol.reference_samples} exact samples"
    if plan.dataset and plan.dataset.reference is not None:
        return "the protocol's reference file of real images"
    return f"{len(plan.dataset.held_out) if plan.dataset else '?'} held-out real samples"


def curves_table(plan: Plan, store: Store) -> pd.DataFrame:
    """Training logs of every distilled student."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for cell in plan.cells:
        stage = cell.distill
        if stage is None or stage.key in seen or not store.has(stage):
            continue
        seen.add(stage.key)
        rows += [{**stage.about, **row} for row in log_rows(store.path(stage))]
    table = pd.DataFrame(rows)
    for name in ("train_seed", "train_nfe"):
        if name in table:
            table[name] = table[name].astype("Int64")
    return table


def grids(plan: Plan, store: Store) -> dict[str, np.ndarray]:
    """Samples that share noise and label by column: the converged teacher, then every variant."""
    arrays: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    dataset = plan.dataset
    assert dataset is not None
    look = dataset.space.pictures
    points = look is None
    count = POINTS_SHOWN if points else GRID_COLUMNS

    def add(key: str, shards: Sequence[Stage], about: Mapping[str, Any]) -> None:
        x = artifacts.samples([store.path(s) for s in shards], count)
        arrays[key] = x if look is None else look(torch.from_numpy(x))
        rows.append({"key": key, **about})

    if plan.grid and all(store.has(s) for s in plan.grid):
        about = {"variant": "teacher-converged", "nfe": None, "train_seed": None, "role": "control"}
        add("teacher", plan.grid, about)
    first_seed = plan.config.train_seeds[0]
    for i, cell in enumerate(plan.cells):
        c = cell.columns
        shown = c["budget_fraction"] == 1.0 and c["train_seed"] in (None, first_seed)
        shown &= c["role"] != "control" and c["shares"] == 1
        if cell.samples and shown and all(store.has(s) for s in cell.samples):
            add(f"cell_{i}", cell.samples, _shown(cell))
    count = max((len(a) for a in arrays.values()), default=0)
    labels = dataset.conditions(plan.config.sample_seed, range(count)).pack().numpy()
    return {
        **arrays,
        "labels": labels if labels.ndim == 1 else np.zeros(count, dtype=np.int64),
        "index": np.arange(count),
        "rows": np.array(json.dumps(rows)),
    }


def _shown(cell: Cell) -> dict[str, Any]:
    """Which samples a picture shows."""
    names = ("variant", "nfe", "train_seed", "role", "sampler", "guidance")
    return {name: cell.columns[name] for name in names}


def _closer(plan: Plan, store: Store, kind: type[Task]) -> list[tuple[dict[str, Any], Path]]:
    """The cells that have a closer look of a kind, with its folder."""
    return [
        (_shown(cell), store.path(stage))
        for cell in plan.cells
        for stage in cell.closer
        if isinstance(stage.task, kind) and store.has(stage)
    ]


def breakdown_table(plan: Plan, store: Store) -> pd.DataFrame:
    """Values by sample count and by class of every cell that was looked at closely."""
    rows = [
        {**about, **row}
        for about, folder in _closer(plan, store, BreakDown)
        for row in json.loads((folder / breakdown.FILE).read_text())
    ]
    table = pd.DataFrame(rows)
    for name in ("train_seed", "nfe"):
        if name in table:
            table[name] = table[name].astype("Int64")
    return table


def selections(plan: Plan, store: Store) -> dict[str, np.ndarray]:
    """Samples picked by stated rules: arrays, and ``cells`` that says whose they are."""
    arrays: dict[str, np.ndarray] = {}
    cells = []
    for number, (about, folder) in enumerate(_closer(plan, store, Select)):
        found = json.loads((folder / selection.FACTS).read_text())
        cells.append({**about, **found, "key": f"{number}"})
        with np.load(folder / selection.PICTURES, allow_pickle=False) as data:
            arrays |= {f"{number}/{name}": data[name] for name in data.files}
    return {**arrays, "cells": np.array(json.dumps(cells))}


def fingerprint(plan: Plan, report_sources: str) -> str:
    """Hash of all that a run's results and page are made from: the code of intervals too."""
    content = [
        to_plain(plan.config),
        [stage.name for stage in plan.stages],
        {v.name: v.source for v in plan.variants},
        package_digest(Path(piflow_bench.__file__).parent),
        report_sources,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_run(
    plan: Plan, store: Store, outcome: Outcome, folder: Path, command: str, started: str
) -> None:
    """Write ``results.parquet``, ``curves.parquet``, ``breakdown.parquet``, ``grids.npz``,
    ``selections.npz`` and ``run.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = results_table(plan, store, outcome)
    write_atomically(folder / "results.parquet", lambda p: table.to_parquet(p, index=False))
    curves = curves_table(plan, store)
    write_atomically(folder / "curves.parquet", lambda p: curves.to_parquet(p, index=False))

    table = breakdown_table(plan, store)
    write_atomically(folder / "breakdown.parquet", lambda p: table.to_parquet(p, index=False))

    def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
        with path.open("wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    write_atomically(folder / "grids.npz", lambda p: save(p, grids(plan, store)))
    write_atomically(folder / "selections.npz", lambda p: save(p, selections(plan, store)))
    about = run_facts(plan, store, outcome, command, started)
    write_atomically(folder / "run.json", lambda p: p.write_text(json.dumps(about, indent=1)))


ENOUGH = 500
"""Times each image is seen in a training that is not called brief."""


def design_warnings(plan: Plan) -> list[str]:
    """What of an experiment's design favours somebody, in words."""
    config, found = plan.config, []
    scale = plan.teacher.guidance.scale if plan.teacher else 1
    found += plan.dataset.cautions if plan.dataset else ()
    found += _brief(plan)
    trained = [v for v in plan.variants if v.facts.trains]
    swept = all(len(np.atleast_1d(v.config.sampling.get("guidance", []))) > 1 for v in trained)
    if config.protocol.primary_question == "data" and scale != 1 and not swept:
        found.append(
            f"the primary question is data, under guidance {scale:g}: that is one method's choice "
            "unless every variant has a sweep of its own; ask imitation first"
        )
    elastic = [v.name for v in trained if v.facts.elastic and len(v.nfes) > 1]
    others = [v for v in trained if not v.facts.elastic]
    if elastic and others and not any(v.shares > 1 for v in others):
        found.append(
            f"{', '.join(elastic)}: one budget serves all NFEs, while every other student has a "
            f"budget for each of {len(config.nfes)}; no row has the budget split: split_budget=true"
        )
    return found


def _brief(plan: Plan) -> list[str]:
    """How long a teacher that the run trains itself is trained, where that is not long."""
    training = plan.teacher.training(plan.dataset) if plan.teacher and plan.dataset else None
    if training is None or plan.dataset is None or training.budget.unit != "images":
        return []
    epochs = training.budget.amount / max(len(plan.dataset.training_rows), 1)
    budget = plan.config.budget
    if epochs > ENOUGH:
        return []
    return [
        f"the teacher is trained briefly, on {training.budget.amount:,.0f} images, each seen "
        f"{epochs:.0f} times, and students for {budget.amount:,g} {budget.unit.upper()}: a first "
        "look, not a ranking of methods; teacher.images= and budget.amount= train longer"
    ]


def run_facts(
    plan: Plan, store: Store, outcome: Outcome, command: str, started: str
) -> dict[str, Any]:
    """What run.json holds."""
    import yaml

    config = plan.config
    p = config.protocol
    roots = {f.stage.key: f for f in outcome.failures.values() if f.root is None}
    return {
        "name": config.name,
        "experiment": config.experiment_file,
        "title": config.title,
        "question_text": config.question,
        "command": command,
        "config": yaml.safe_dump(to_plain(config), sort_keys=False),
        "settings": settings_digest(config),
        "dataset": config.dataset["name"],
        "protocol": plan.protocol_hash,
        "primary": {
            "question": p.primary_question,
            "quality": p.primary_quality,
            "diversity": p.primary_diversity,
            "extractor": p.extractors[0],
        },
        "family": {"leader": config.family.leader},
        "variants": [
            {
                "name": v.name,
                "method": v.config.method,
                "family": v.facts.family,
                "track": v.facts.track,
                "label": v.name,
                "paper": v.facts.paper,
                "target": v.facts.target,
                "settings": v.settings,
                "training": v.training,
                "budget": v.budget,
                "base": v.base,
                "tuning": v.config.tuning,
            }
            for v in plan.variants
        ],
        "failures": [
            {
                "stage": f.stage.label,
                "variant": f.stage.about.get("variant", ""),
                "reason": f.reason,
                "log": f.traceback.strip().splitlines()[-LOG_LINES:],
            }
            for f in roots.values()
        ],
        "warnings": warnings_of(plan, store) + design_warnings(plan),
        "references": list(config.references),
        "provenance": {
            "collected": {  # By whom the table was written: every row has its own origin.
                "git_commit": git_commit(),
                "node": socket.gethostname(),
                "versions": versions(),
            },
            "threads": config.training.threads,
            "device": config.scale.device,
            "processes": config.scale.processes,
            "teacher_weights": plan.taken,
            "started": started,
            "seconds": round(outcome.seconds, 1),
        },
    }
