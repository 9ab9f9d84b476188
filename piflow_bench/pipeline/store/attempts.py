"""How often a stage was begun, where, and what was lost each time: a file in its work folder."""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from piflow_bench.files.atomic import read_json, write_json
from piflow_bench.pipeline.store.progress import PROGRESS

STARTS = "starts.json"
KEPT = (
    "state/facts.json", "state.old/facts.json", "checkpoints.json", "parts/*.npz", "parts/*/*.npz",
)  # fmt: skip
"""What stages keep on disk to go on from, or have ended with."""


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
    source: str = ""
    """Digest of the modules of the stage's plugin, as they were loaded."""
    anew: str = ""
    """Why it did not go on from what the attempt before it had kept."""


def starts_of(work: Path) -> list[Start]:
    """All beginnings of the stage that works in ``work``."""
    try:
        return [Start(**s) for s in read_json(work / STARTS) or []]
    except TypeError:
        return []


def begin(work: Path, source: str = "", resumable: bool = True) -> None:
    """Note a beginning, and leave of the last attempt's work what this one can go on from.

    That is nothing where a stage is not ``resumable``, or its plugin's ``source`` is another.
    """
    before = starts_of(work)
    array, task = (os.environ.get(f"SLURM_ARRAY_{n}_ID") for n in ("JOB", "TASK"))
    job = f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")
    lost = _lost(work, before[-1]) if before else 0.0
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    changed = bool(before) and before[-1].source != source
    anew = "its plugin's source is another" if changed and resumable and _has_kept(work) else ""
    if changed or not resumable:
        _clear(work)
    now = Start(time.time(), node, job, os.getpid(), lost, source, anew)
    write_json(work / STARTS, [asdict(s) for s in [*before, now]])


def begin_anew(work: Path, why: str) -> None:
    """Note that the present attempt cannot go on from what was kept."""
    *before, now = starts_of(work) or [Start(time.time(), "", None, os.getpid())]
    write_json(work / STARTS, [asdict(s) for s in [*before, replace(now, anew=why)]])


def _clear(work: Path) -> None:
    """Remove all but the record of beginnings."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != STARTS:
            path.unlink(missing_ok=True)


def _has_kept(work: Path) -> bool:
    return any(next(work.glob(pattern), None) for pattern in KEPT)


def _lost(work: Path, last: Start) -> float:
    """Seconds between what was kept last and the last word of an attempt."""
    kept = [p.stat().st_mtime for pattern in KEPT for p in work.glob(pattern)]
    try:
        word = (work / PROGRESS).stat().st_mtime
    except OSError:
        return 0.0
    return round(max(word - max([last.time, *kept]), 0.0), 1)
