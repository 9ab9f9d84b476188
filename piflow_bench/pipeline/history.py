"""How often a stage was begun, where, and what was lost each time: a file in its work folder."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from piflow_bench.files import read_json, write_json
from piflow_bench.pipeline.progress import PROGRESS

STARTS = "starts.json"
KEPT = ("state/facts.json", "parts/*.npz", "parts/*/*.npz")
"""What stages keep on disk to go on from."""


@dataclass(frozen=True)
class Start:
    """One beginning of a stage."""

    time: float
    """Seconds since 1970."""
    node: str
    job: str | None
    """Slurm's id of the job, where it was one."""
    pid: int
    lost: float = 0.0
    """Seconds of work that the attempt before this one had not kept when it ended."""


def starts_of(work: Path) -> list[Start]:
    """All beginnings of the stage that works in ``work``."""
    try:
        return [Start(**s) for s in read_json(work / STARTS) or []]
    except TypeError:
        return []


def begin(work: Path) -> None:
    """Note a beginning; call it where the work folder is as the last attempt left it."""
    before = starts_of(work)
    array, task = (os.environ.get(f"SLURM_ARRAY_{n}_ID") for n in ("JOB", "TASK"))
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    lost = _lost(work, before[-1]) if before else 0.0
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    now = Start(time.time(), node, job, os.getpid(), lost)
    write_json(work / STARTS, [asdict(s) for s in [*before, now]])


def _lost(work: Path, last: Start) -> float:
    """Seconds between what was kept last and the last word of an attempt."""
    kept = [p.stat().st_mtime for pattern in KEPT for p in work.glob(pattern)]
    try:
        word = (work / PROGRESS).stat().st_mtime
    except OSError:
        return 0.0
    return round(max(word - max([last.time, *kept]), 0.0), 1)
