"""What the store remembers of a stage's jobs: which was submitted last, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from piflow_bench.files.atomic import read_json, write_json
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store

FOLDER = "slurm"
LAST_LINES = 5
"""Of a job's log that are shown where it failed."""


def logs(store: Store) -> Path:
    """Where jobs' scripts, arguments and logs are."""
    return store.root / FOLDER / "jobs"


def record_of(store: Store, stage: Stage) -> dict[str, Any] | None:
    """What was last submitted for a stage: job, log, attempts."""
    return record_named(store, stage.name)


def record_named(store: Store, name: str) -> dict[str, Any] | None:
    """The same, of a stage of which only the name is known."""
    return read_json(store.root / FOLDER / f"{name}.json")


def write_record(store: Store, stage: Stage, job: str, log: Path) -> None:
    """Remember a job that will make a stage, and forget how the one before it ended."""
    before = record_of(store, stage) or {"attempts": 0}
    (store.root / FOLDER / f"{stage.name}.outcome.json").unlink(missing_ok=True)
    record = {"job": job, "log": str(log), "attempts": before["attempts"] + 1}
    write_json(store.root / FOLDER / f"{stage.name}.json", {**record, "label": stage.label})


def outcome_of(store: Store, stage: Stage) -> dict[str, str] | None:
    """What a job wrote that made no artifact: waiting, failed or environment, and why."""
    return read_json(store.root / FOLDER / f"{stage.name}.outcome.json")


def write_outcome(
    store: Store, stage: Stage, status: str, reason: str, traceback: str = ""
) -> None:
    """Say why there is no artifact."""
    content = {"status": status, "reason": reason, "traceback": traceback}
    write_json(store.root / FOLDER / f"{stage.name}.outcome.json", content)


def last_lines(log: str) -> Iterator[str]:
    """The last lines of a job's log, without submitit's own."""
    try:
        lines = Path(log).read_text(errors="replace").splitlines()
    except OSError:
        return
    kept = [line for line in lines if line.strip() and not line.startswith("submitit ")]
    yield from kept[-LAST_LINES:]
