"""Stages of every kind for tests to whom it does not matter what they do."""

from dataclasses import MISSING, fields

from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.stage import Stage


def task_of(kind, n=1, **given):
    """A task whose fields mean nothing but for those given; another one for another ``n``."""
    required = [f.name for f in fields(KINDS[kind]) if f.default is MISSING]
    empty = {
        name: {"n": n} if name in ("dataset", "space", "teacher") else None for name in required
    }
    empty |= {name: {} for name in ("extractors", "versions") if name in required}
    if "method" in required:
        empty["method"] = "kd"
    return KINDS[kind](**{**empty, **given})


def stage_of(kind, n=1, inputs=None, label="", about=None, weight=1.0, **given):
    """A stage of :func:`task_of`."""
    return Stage(task_of(kind, n, **given), inputs or {}, label, about or {}, weight)
