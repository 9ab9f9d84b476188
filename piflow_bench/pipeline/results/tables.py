"""The rows of results and of training curves, from what a plan's stages left in the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from piflow_bench.evaluation.protocols import HALVES
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.launchers.schedule import Outcome
from piflow_bench.pipeline.plan import Cell, Plan
from piflow_bench.pipeline.results.frames import framed
from piflow_bench.pipeline.results.schema import CURVES, RESULTS, Status
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.metrics import COSINE
from piflow_bench.pipeline.stages.scores import ScoreSamples
from piflow_bench.pipeline.store.store import Store
from piflow_bench.training.output import checkpoints, log_rows

NAN = float("nan")
SAMPLING = ("flops_per_sample", "sample_seconds", "policy_seconds")
"""What samples cost, a sample each, as their stages' facts and the results call it."""
SAME_NOISE = "converged teacher, same noise"
"""The reference of a sample beside the teacher's."""


def results_table(plan: Plan, store: Store, outcome: Outcome, pending: bool = True) -> pd.DataFrame:
    """One row per cell and metric; a cell without values has one per question, with the reason.

    ``pending``: whether what is still to come has rows, too.
    """
    of_run = {
        "run": plan.config.name,
        "experiment": plan.config.experiment_file,
        "sample_seed": plan.config.sample_seed,
        "protocol": plan.protocol_hash,
        "rules": json.dumps(plan.rules, sort_keys=True),
    }
    rows: list[dict[str, Any]] = []
    for cell in plan.cells:
        costs = {**_training(cell, store), **_sampling(cell, store)}
        for stage in cell.results:
            about = {**of_run, **cell.columns, **costs, **_asked(stage, plan)}
            about |= _provenance(cell, store, stage)
            rows += [{**about, **each} for each in _measured(stage, plan, store, outcome)]
    if not pending:
        rows = [row for row in rows if row["status"] != Status.PENDING]
    return framed(rows, RESULTS)


def _training(cell: Cell, store: Store) -> dict[str, Any]:
    """What the training had spent at the cell's checkpoint; nothing where there is none."""
    spent: Mapping[str, Any] = {}
    if cell.distill is not None and store.has(cell.distill):
        spent = checkpoints(store.path(cell.distill))[cell.checkpoint or 0]
    return {
        "budget_tfe": spent.get("tfe", 0.0),
        "train_tfe": spent.get("tfe", 0.0),
        "train_images": spent.get("images", 0.0),
        "train_seconds": spent.get("seconds", 0.0),
        "train_steps": spent.get("step", 0.0),
        "train_rows": json.dumps(spent.get("rows", {}), sort_keys=True),
        "params": spent.get("params", NAN),
        "train_memory": spent.get("memory", NAN),
    }


def _sampling(cell: Cell, store: Store) -> dict[str, Any]:
    """What the cell's samples cost, over all shards, and the NFE that was counted."""
    if not cell.samples or not all(store.has(s) for s in cell.samples):
        return dict.fromkeys((*SAMPLING, "sample_memory"), NAN)
    shards = [artifacts.facts(store.path(s)) for s in cell.samples]
    n = sum(s["n"] for s in shards)
    return {
        **{name: sum(s.get(name, NAN) * s["n"] for s in shards) / n for name in SAMPLING},
        "sample_memory": max(s.get("memory", NAN) for s in shards),
        "nfe": shards[0]["nfe"],
    }


def _asked(stage: Stage, plan: Plan) -> dict[str, Any]:
    """What a stage measures, and against what."""
    return {
        "question": getattr(stage.task, "question", plan.config.protocol.primary_question),
        "extractor": getattr(stage.task, "extractor", "samples"),
        "reference": _reference(stage, plan),
        "artifact": stage.key,
    }


def _reference(stage: Stage, plan: Plan) -> str:
    config = plan.config
    if isinstance(stage.task, ScoreSamples):  # Without the teacher: samples of a class alone.
        return SAME_NOISE if "converged" in stage.inputs else ""
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
    half = "a half of " if question in HALVES else ""
    return f"{half}{len(plan.dataset.held_out) if plan.dataset else '?'} held-out real samples"


def _provenance(cell: Cell, store: Store, stage: Stage) -> dict[str, str]:
    """Commit, versions, machine of what a row comes from: training, samples, its own artifact.

    Where they differ each is named once, in that order.
    """
    training = _metas([cell.distill] if cell.distill is not None else [], store)
    sampling = _metas(cell.samples, store)
    line = [*training, *sampling, *_metas([stage], store)]
    packages = dict.fromkeys(name for meta in line for name in meta["versions"])
    versions = {name: _each(name, [m["versions"] for m in line]) for name in packages}
    return {
        "git_commit": _each("git_commit", line),
        "versions": json.dumps(versions, sort_keys=True),
        "hardware": _each("hardware", line),
        "node": _each("node", line),
        "train_hardware": _each("hardware", training),
        "sample_hardware": _each("hardware", sampling),
    }


def _metas(stages: Iterable[Stage], store: Store) -> list[dict[str, Any]]:
    return [store.meta(stage) for stage in stages if store.has(stage)]


def _each(name: str, facts: Sequence[Mapping[str, Any]]) -> str:
    """What facts say under a name, each text once."""
    return ", ".join(dict.fromkeys(str(each[name]) for each in facts if each.get(name)))


def _measured(stage: Stage, plan: Plan, store: Store, outcome: Outcome) -> list[dict[str, Any]]:
    """The scores of a stage; without them one row of the primary metric, which says why."""
    from piflow_bench.evaluation.metrics.metric import all_metrics

    known = all_metrics()
    if store.has(stage):
        meta = store.meta(stage)
        found = artifacts.scores(store.path(stage))
        times = {"start": meta["started"], "duration": meta["duration"]}
        became = {"status": Status.OK, "reason": ""}
    else:
        failure = outcome.failures.get(stage.key)
        metric = plan.config.protocol.primary_quality
        found = [artifacts.Score(metric, NAN, NAN, NAN, 0, [], "", "", "")]
        times = {"start": "", "duration": NAN}
        became = {
            "status": Status.FAILED if failure else Status.PENDING,
            "reason": failure.reason if failure else "not computed",
        }
    return [
        {
            **asdict(score),
            **times,
            **became,
            **({"reference": SAME_NOISE} if score.metric == COSINE else {}),
            "higher_is_better": known[score.metric].higher_is_better
            if score.metric in known
            else None,
        }
        for score in found
    ]


def curves_table(plan: Plan, store: Store) -> pd.DataFrame:
    """Training logs of every distilled student, a training once."""
    trainings = {cell.distill.key: cell.distill for cell in plan.cells if cell.distill is not None}
    return framed(
        (
            {**stage.about, **row}
            for stage in trainings.values()
            if store.has(stage)
            for row in log_rows(store.path(stage))
        ),
        CURVES,
    )
