"""Since when a store knows which comparisons an experiment declares.

A student that was trained before can have been seen by whoever declared: the report says so.
"""

from __future__ import annotations

import json
import time
from hashlib import sha256
from typing import Any

from piflow_bench.config.schema import VariantConfig, to_plain
from piflow_bench.files.atomic import read_json, write_json
from piflow_bench.pipeline.plan import Plan
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.stages.published import Publish
from piflow_bench.pipeline.store.store import Store

FOLDER = "declared"
OF_A_STUDENT = ("method", "settings", "settings_at", "sampling", "training", "budget", "nfes")


def declare(store: Store, plan: Plan) -> str:
    """When a run with these comparisons first began in this store; now, where none did (UTC).

    All variants of the experiment are of them, chosen for this run or not: its parts declare alike.
    """
    config, p = plan.config, plan.config.protocol
    content = {
        "family": to_plain(config.family),
        "nfes": list(config.nfes),
        "variants": {name: _student(entry) for name, entry in sorted(config.variants.items())},
        "primary": [p.primary_question, p.primary_quality, p.primary_diversity, p.extractors[0]],
        "protocol": plan.protocol_hash,
    }
    text = json.dumps(content, sort_keys=True, default=str)
    path = store.root / FOLDER / f"{sha256(text.encode()).hexdigest()[:20]}.json"
    known = read_json(path)
    if not known:
        path.parent.mkdir(exist_ok=True)
        known = {**json.loads(text), "since": _utc(time.time())}
        write_json(path, known)
    return str(known["since"])


def _student(entry: VariantConfig) -> dict[str, Any]:
    plain = to_plain(entry)
    return {key: plain[key] for key in OF_A_STUDENT}


def first_training(store: Store, plan: Plan) -> str | None:
    """When the first of a plan's students in the store began to be trained, finished or not (UTC).

    Empty: none has; None: who knows, of published weights.
    """
    if any(isinstance(stage.task, Publish) for stage in plan.stages):
        return None
    trained = [stage for stage in plan.stages if isinstance(stage.task, Distill)]
    began = [start.time for stage in trained for start in store.starts(stage)]
    return _utc(min(began)) if began else ""


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
