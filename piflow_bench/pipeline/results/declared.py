"""Since when a store knows which comparisons an experiment declares.

A student that was trained before can have been seen by whoever declared: the report says so.
"""

from __future__ import annotations

import json
import time
from hashlib import sha256

from piflow_bench.config.schema import to_plain
from piflow_bench.files.atomic import read_json, write_json
from piflow_bench.pipeline.plan import Plan
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.store.store import Store

FOLDER = "declared"


def declare(store: Store, plan: Plan) -> str:
    """When a run with these comparisons first began in this store; now, where none did (UTC)."""
    p = plan.config.protocol
    content = {
        "family": to_plain(plan.config.family),
        "primary": [p.primary_question, p.primary_quality, p.primary_diversity, p.extractors[0]],
        "protocol": plan.protocol_hash,
    }
    name = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
    path = store.root / FOLDER / f"{name}.json"
    known = read_json(path)
    if not known:
        path.parent.mkdir(exist_ok=True)
        known = {**content, "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        write_json(path, known)
    return str(known["since"])


def first_training(store: Store, plan: Plan) -> str:
    """When the first of a plan's students in the store began to be trained; empty: none has."""
    trained = [s for s in plan.stages if isinstance(s.task, Distill) and store.has(s)]
    return min((str(store.meta(stage)["started"]) for stage in trained), default="")
