"""What a run's stages are doing, from the store alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from filelock import FileLock, Timeout

from piflow_bench.pipeline.graph import Stage
from piflow_bench.pipeline.store import Store


@dataclass(frozen=True)
class StageStatus:
    """State of one stage: done | running | stopped (has a work folder to go on from) | missing."""

    stage: Stage
    state: str
    share: float = 0.0
    text: str = ""


def is_locked(store: Store, stage: Stage) -> bool:
    """Whether some process holds the artifact's lock."""
    path = store.root / "locks" / f"{stage.name}.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def status_of(store: Store, stage: Stage) -> StageStatus:
    """The state of one stage."""
    if store.has(stage):
        return StageStatus(stage, "done", 1.0)
    share, text = store.progress(stage) or (0.0, "")
    if not store.work(stage).exists():
        return StageStatus(stage, "missing")
    state = "running" if is_locked(store, stage) else "stopped"
    return StageStatus(stage, state, share, text)


def summary(statuses: list[StageStatus]) -> dict[str, Counter[str]]:
    """Counts of states by kind of stage."""
    table: dict[str, Counter[str]] = {}
    for s in statuses:
        table.setdefault(s.stage.kind, Counter())[s.state] += 1
    return table
