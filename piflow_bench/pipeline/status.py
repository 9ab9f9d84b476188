"""What a run's stages are doing, from the store and Slurm's queue alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from filelock import Timeout
from rich.console import Console
from rich.table import Table

from piflow_bench.pipeline.launchers.slurm import queue
from piflow_bench.pipeline.launchers.slurm.records import last_lines, outcome_of, record_of
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.attempts import Start, starts_of
from piflow_bench.pipeline.store.store import Store
from piflow_bench.progress_bar import duration

STATES = ("done", "running", "queued", "failed", "stopped", "missing")
WATCH_SECONDS = 2


@dataclass(frozen=True)
class StageStatus:
    """State of one stage, and what is known of it.

    ``stopped`` has a work folder to go on from; ``queued`` and ``failed`` are Slurm's.
    """

    stage: Stage
    state: str
    share: float = 0.0
    text: str = ""
    """The last word of the stage, or why it failed."""
    left: float | None = None
    """Seconds."""
    starts: Sequence[Start] = ()
    job: str | None = None
    log: str | None = None

    @property
    def node(self) -> str | None:
        """Where it was begun last."""
        return self.starts[-1].node if self.starts else None


def is_locked(store: Store, stage: Stage) -> bool:
    """Whether some process holds the artifact's lock."""
    if not (store.root / "locks" / f"{stage.name}.lock").exists():
        return False
    try:
        with store.guard(stage.name, timeout=0):
            return False
    except Timeout:
        return True


def status_of(store: Store, stage: Stage, jobs: dict[str, queue.Job] | None = None) -> StageStatus:
    """The state of one stage; ``jobs`` is Slurm's queue."""
    if store.has(stage):
        return StageStatus(stage, "done", 1.0)
    starts = starts_of(store.work(stage))
    word = store.progress(stage)
    share, text, left = (word.share, word.text, word.left) if word else (0.0, "", None)
    record = record_of(store, stage) or {}
    job, log = record.get("job"), record.get("log")
    alive = jobs.get(job) if jobs and job else None
    outcome = outcome_of(store, stage)
    if store.begun(stage) and is_locked(store, stage):
        return StageStatus(stage, "running", share, text, left, starts, job, log)
    if outcome and outcome["status"] != "waiting":
        return StageStatus(stage, "failed", share, outcome["reason"], None, starts, job, log)
    if alive and alive.is_alive:
        words = f"waits: {alive.reason}" if alive.reason not in ("", "None") else ""
        return StageStatus(stage, "queued", share, words, None, starts, job, log)
    state = "stopped" if store.begun(stage) else "missing"
    return StageStatus(stage, state, share, text, None, starts, job, log)


def statuses_of(store: Store, stages: Sequence[Stage]) -> list[StageStatus]:
    """The states of stages; Slurm is asked once, and only if it was given any of them."""
    submitted = any((store.root / "slurm").glob("*.json"))
    jobs = queue.jobs() if submitted else None
    return [status_of(store, stage, jobs) for stage in stages]


def summary(statuses: Sequence[StageStatus]) -> dict[str, Counter[str]]:
    """Counts of states by kind of stage."""
    table: dict[str, Counter[str]] = {}
    for s in statuses:
        table.setdefault(s.stage.kind, Counter())[s.state] += 1
    return table


def line(s: StageStatus) -> str:
    """One stage in words."""
    words = [f"{s.state} {s.share:4.0%} {s.stage.label}"]
    words += [s.text] if s.text else []
    words += [f"{duration(s.left)} left"] if s.left is not None else []
    words += [f"job {s.job}"] if s.job else []
    words += [f"on {s.node}"] if s.node and s.state == "running" else []
    if len(s.starts) > 1:
        lost = duration(sum(start.lost for start in s.starts))
        words.append(f"begun {len(s.starts)} times, {lost} of work lost")
    words += [s.log] if s.log and s.state in ("running", "failed", "stopped") else []
    return "; ".join(words)


def print_status(name: str, store: Store, stages: Sequence[Stage], watch: bool) -> None:
    """Counts of stages by state, and those that are running, queued, stopped or failed."""
    console = Console()
    while True:
        statuses = statuses_of(store, stages)
        counted = summary(statuses)
        shown = [s for s in STATES if any(c[s] for c in counted.values()) or s in STATES[:2]]
        out = Table(title=f"{name}: status")
        out.add_column("stage")
        for state in shown:
            out.add_column(state, justify="right")
        for kind, counts in counted.items():
            out.add_row(kind, *[str(counts[s]) for s in shown])
        console.print(out)
        queued: Counter[str] = Counter()
        for s in statuses:
            if s.state in ("running", "stopped", "failed"):
                console.print(line(s), highlight=False, markup=False, soft_wrap=True)
            if s.state == "failed" and s.log:
                for text in last_lines(s.log):
                    console.print(f"    {text}", highlight=False, markup=False, soft_wrap=True)
            if s.state == "queued":
                queued[f"{(s.job or '').partition('_')[0]}; {s.stage.kind}; {s.text}"] += 1
        for words, count in queued.items():
            text = f"queued: {count} of job {words}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
        if not watch or all(s.state == "done" for s in statuses):
            return
        time.sleep(WATCH_SECONDS)
