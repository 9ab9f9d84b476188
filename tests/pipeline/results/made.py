"""Plans and stores made by hand: what a run left, without a run."""

import json
from types import SimpleNamespace

from piflow_bench.pipeline.plan import Cell, Plan
from piflow_bench.pipeline.store.store import META, Store

META_FACTS = {
    "git_commit": "c0ffee", "hardware": "a CPU", "node": "here", "duration": 2.5,
    "started": "2026-01-01T00:00:00Z", "versions": {"python": "3.11", "torch": "2.6"},
}  # fmt: skip


def config(**others):
    """As much of an experiment's configuration as results look at."""
    protocol = {
        "primary_question": "imitation", "primary_quality": "fd", "primary_diversity": "recall",
        "reference_samples": 500, "extractors": ["digits"], "questions": ["imitation"],
        "reference_seed": 7,
    }  # fmt: skip
    facts = {
        "name": "mine", "experiment_file": "digits", "sample_seed": 3, "train_seeds": [0, 1],
        "converged": "heun, 50 steps", "protocol": SimpleNamespace(**protocol),
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **others})


def plan_of(*cells, **others):
    """A plan of these cells."""
    given = {"protocol_hash": "5f3c", "rules": {"samples": 4}, "config": config()}
    return Plan(variants=[], cells=list(cells), **{**given, **others})


def cell_of(results=(), samples=(), distill=None, checkpoint=None, closer=(), **columns):
    """A student's cell, with other columns where they are given."""
    about = {
        "variant": "kd", "method": "kd", "family": "regression", "track": "distilled",
        "role": "student", "serves": "1", "shares": 1, "train_seed": 0, "budget_fraction": 1.0,
        "nfe": 1, "guidance": None, "sampler": "",
    }  # fmt: skip
    return Cell({**about, **columns}, tuple(results), tuple(samples), distill, checkpoint, closer)


def store_in(folder):
    store = Store(folder)
    store.prepare()
    return store


def finish(store, stage, meta=None, **files):
    """Make a stage's artifact of files: JSON by name, with ``_`` for the dot."""
    folder = store.path(stage)
    folder.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("_", ".")).write_text(text)
    (folder / META).write_text(json.dumps({**META_FACTS, **(meta or {})}))
    return folder
