"""What ``run.json`` holds: the run's question and settings, its failures, warnings and origin."""

from __future__ import annotations

import socket
from typing import Any

from piflow_bench.config.schema import to_plain
from piflow_bench.pipeline.launchers.schedule import Outcome
from piflow_bench.pipeline.outdated import warnings_of
from piflow_bench.pipeline.plan import Plan
from piflow_bench.pipeline.results.declared import declare, first_training
from piflow_bench.pipeline.results.design import design_warnings
from piflow_bench.pipeline.stages.teacher import EncodeText, cut_prompts
from piflow_bench.pipeline.store.store import Store
from piflow_bench.pipeline.store.uses import settings_digest
from piflow_bench.provenance import git_commit, versions

LOG_LINES = 5
"""Last lines of a failed stage's log that the report shows."""


def _measures(plan: Plan) -> dict[str, Any]:
    """What decides the numbers of metrics beside the rules: versions by name, LPIPS's weights."""
    found: dict[str, Any] = {}
    for content in (stage.task.content for stage in plan.stages):
        found |= {f"version of {name}": key for name, key in content.get("versions", {}).items()}
        found |= {"weights of LPIPS": content["lpips"]} if content.get("lpips") else {}
    return found


def _cut(plan: Plan, store: Store) -> list[str]:
    """What of the prompts the teacher does not read."""
    made = [s for s in plan.stages if isinstance(s.task, EncodeText) and store.has(s)]
    lines = [line for stage in made for line in cut_prompts(store.path(stage))]
    if not lines:
        return []
    few = "; ".join(lines[:LOG_LINES])
    return [f"{len(lines)} prompts are longer than what the text encoder reads ({few})"]


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
        "family": to_plain(config.family),
        "variants": [
            {
                "name": v.name,
                "method": v.config.method,
                "family": v.facts.family,
                "track": v.facts.track,
                "label": v.name,
                "paper": v.facts.paper,
                "citation": v.facts.citation,
                "fidelity": v.facts.fidelity,
                "trained_on": list(v.facts.trained_on),
                "target": v.facts.target,
                "settings": v.settings,
                **({"settings_at": v.settings_at} if v.settings_at else {}),
                "training": v.training,
                "budget": v.budget,
                "base": v.base,
                "tuning": v.config.tuning,
                **({"trial_of": v.config.trial_of} if v.config.trial_of else {}),
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
        "warnings": warnings_of(plan, store) + design_warnings(plan) + _cut(plan, store),
        "measures": _measures(plan),
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
            "declared": declare(store, plan),
            "first_training": first_training(store, plan),
            "seconds": round(outcome.seconds, 1),
        },
    }
