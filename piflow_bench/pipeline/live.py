"""The page of a run that goes on: made from what the store holds by now, again and again."""

from __future__ import annotations

import calendar
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from piflow_bench.config.schema import ExperimentConfig, VariantConfig, to_plain
from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.file_plugins import places
from piflow_bench.files.atomic import write_json, write_text
from piflow_bench.pipeline.launchers.schedule import Failure, Outcome
from piflow_bench.pipeline.launchers.slurm.records import outcome_of
from piflow_bench.pipeline.plan import Plan, make_plan
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store
from piflow_bench.settings import build_dataclass

LIVE = "live.json"
"""In a run's folder while it goes on: what its page is made from."""
FOLDER = "live"
EVERY = 10.0
"""Seconds between two looks at the run, and of an open page at its stamp."""
STAMP = "stamp.js"
MOVED = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The run has ended</title>
<meta http-equiv="refresh" content="0; url=../report.html"></head>
<body><p>The run has ended: <a href="../report.html">its page</a>.</p></body></html>
"""


Note = Callable[[Stage, str], None]
"""Told of a stage that failed, and why."""


@contextmanager
def told(folder: Path, config: ExperimentConfig, store: Store, command: str) -> Iterator[Note]:
    """Say in a run's folder that it goes on, as long as this process lives; yields what to tell."""
    path, lock = folder / LIVE, _lock(folder)
    failures: list[list[str]] = []
    content = {
        "config": to_plain(config),
        "store": str(store.root),
        "command": command,
        "cwd": os.getcwd(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "failures": failures,
    }

    def write() -> None:
        write_json(path, content)

    def failed(stage: Stage, reason: str) -> None:
        failures.append([stage.key, reason])
        if lock.is_locked:
            write()

    # A second run of the same experiment leaves the telling to the first.
    with suppress(Timeout):
        lock.acquire(timeout=1)
        write()
    try:
        yield failed
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def _lock(folder: Path) -> BaseFileLock:
    return FileLock(folder / f".{LIVE}.lock", mode=0o664)


def goes_on(folder: Path) -> bool:
    """Whether a process is at work on the run of this folder; one that was killed is not."""
    if not (folder / LIVE).exists():
        return False
    try:
        with _lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


def configuration_of_live(folder: Path) -> dict[str, Any] | None:
    """The configuration of a run that goes on in a folder; None where none does."""
    if not goes_on(folder):
        return None
    try:
        return dict(json.loads((folder / LIVE).read_text())["config"])
    except (OSError, ValueError, KeyError):  # It has just ended.
        return None


@dataclass(frozen=True)
class Running:
    """A run that goes on, as another process sees it."""

    folder: Path
    plan: Plan
    store: Store
    command: str
    started: str

    def outcome(self) -> Outcome:
        """What has become of its stages by now."""
        told_of: dict[str, str] = {}
        with suppress(OSError):
            told_of = dict(json.loads((self.folder / LIVE).read_text())["failures"])
        outcome = Outcome()
        for stage in self.plan.stages:  # Inputs first.
            below = (outcome.failures.get(p.key) for p in stage.parents())
            lost = next((failure for failure in below if failure), None)
            found = outcome_of(self.store, stage)
            if self.store.has(stage):
                outcome.done.add(stage.key)
            elif lost:
                root = lost.root or lost.stage
                words = lost.reason if lost.root else f"needs {root.label}: {lost.reason}"
                outcome.failures[stage.key] = Failure(stage, words, root=root)
            elif stage.key in told_of:
                outcome.failures[stage.key] = Failure(stage, told_of[stage.key])
            elif found and found["status"] == "failed":
                outcome.failures[stage.key] = Failure(stage, found["reason"], found["traceback"])
        return outcome


def running(folder: Path) -> Running:
    """The run whose results will be in ``folder``.

    Raises:
        UserError: if none goes on.
    """
    if not goes_on(folder):
        raise UserError(
            f"report --watch: no run goes on in {folder}; start it, or leave out --watch"
        )
    facts: dict[str, Any] = json.loads((folder / LIVE).read_text())
    os.chdir(facts["cwd"])  # Paths of its configuration are relative to where it was started.
    values = facts["config"]
    use_plugins(places(values["plugins"]))
    variants = {
        name: build_dataclass(VariantConfig, entry, f"variants.{name}")
        for name, entry in values.pop("variants").items()
    }
    config = replace(build_dataclass(ExperimentConfig, values, "config"), variants=variants)
    store = Store(Path(facts["store"]))
    return Running(folder, make_plan(config, look=False), store, facts["command"], facts["started"])


def snapshot(run: Running, out: Path, build: Callable[[Path], Path], live: bool = True) -> str:
    """Write results and page of what is finished into ``out``; returns a stamp of how much it is.

    ``build`` makes a page of a folder of results. A page that is ``live`` looks for another stamp.
    """
    from piflow_bench.pipeline.results.run import write_run  # pandas: not for what looks at stages.

    outcome = run.outcome()
    stamp = _stamp(outcome)
    results = [s for cell in run.plan.cells for s in cell.results]
    if any(s.key in outcome.done or s.key in outcome.failures for s in results):
        done, total = len(outcome.done), len(run.plan.stages)
        about = {"done": done, "total": total, "refresh": EVERY, "stamp": stamp}
        write_run(
            run.plan,
            run.store,
            outcome,
            out,
            run.command,
            run.started,
            pending=False,
            live=about if live else None,
        )
        build(out)
        _tell_pages(out, stamp if live else "")
    return stamp


def _stamp(outcome: Outcome) -> str:
    return f"{len(outcome.done)}-{len(outcome.failures)}"


def _tell_pages(out: Path, stamp: str) -> None:
    """What open pages look for: a page from a disk may ask for a script, but for nothing else."""
    script = f"window.piflowStamp && window.piflowStamp({json.dumps(stamp)});\n"
    write_text(out / STAMP, script)


def watch(folder: Path, build: Callable[[Path], Path], every: float = EVERY) -> Path:
    """Remake the page as the run goes on; returns the page that stands once it has ended.

    That is the run's own, or, where it was stopped, the last of what is finished.
    """
    folder = folder.absolute()
    run = running(folder)
    out = folder / FOLDER
    out.mkdir(exist_ok=True)
    print(out / "report.html", flush=True)
    before = ""
    try:
        while goes_on(folder):
            if _stamp(run.outcome()) != before:
                before = snapshot(run, out, build)
            time.sleep(every)
    except KeyboardInterrupt:
        snapshot(run, out, build, live=False)
        raise
    if not _has_ended(run):
        print("the run stopped before its end; the page holds what is finished", file=sys.stderr)
        snapshot(run, out, build, live=False)
        return out / "report.html"
    # Pages that are open come here once more.
    write_text(out / "report.html", MOVED)
    _tell_pages(out, "")
    return folder / "report.html"


def _has_ended(run: Running) -> bool:
    page = run.folder / "report.html"
    if not page.is_file():
        return False
    started = calendar.timegm(time.strptime(run.started, "%Y-%m-%dT%H:%M:%SZ"))
    return page.stat().st_mtime >= started or all(run.store.has(s) for s in run.plan.stages)
