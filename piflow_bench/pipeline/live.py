"""The page of a run that goes on: made from what the store holds by now, again and again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from piflow_bench.config import ExperimentConfig, VariantConfig, build_dataclass, to_plain
from piflow_bench.errors import UserError
from piflow_bench.pipeline.launch import Failure, Outcome
from piflow_bench.pipeline.plan import Plan, make_plan
from piflow_bench.pipeline.results import write_atomically, write_run
from piflow_bench.pipeline.slurm.records import outcome_of
from piflow_bench.pipeline.store import Store

LIVE = "live.json"
"""In a run's folder while it goes on: what its page is made from."""
FOLDER = "live"
EVERY = 10.0
"""Seconds between two looks, and between two refreshes of the page."""


@contextmanager
def told(folder: Path, config: ExperimentConfig, store: Store, command: str) -> Iterator[None]:
    """Say in a run's folder that it goes on."""
    path = folder / LIVE
    content = {
        "config": to_plain(config),
        "store": str(store.root),
        "command": command,
        "cwd": os.getcwd(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_atomically(path, lambda p: p.write_text(json.dumps(content)))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Running:
    """A run that goes on, as another process sees it."""

    plan: Plan
    store: Store
    command: str
    started: str


def running(folder: Path) -> Running:
    """The run whose results will be in ``folder``.

    Raises:
        UserError: if none goes on.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / LIVE).read_text())
    except OSError as error:
        raise UserError(
            f"report --watch: no run goes on in {folder}; start it, or leave out --watch"
        ) from error
    os.chdir(facts["cwd"])  # Paths of its configuration are relative to where it was started.
    values = facts["config"]
    variants = {
        name: build_dataclass(VariantConfig, entry, f"variants.{name}")
        for name, entry in values.pop("variants").items()
    }
    config = replace(build_dataclass(ExperimentConfig, values, "config"), variants=variants)
    store = Store(Path(facts["store"]))
    return Running(make_plan(config), store, facts["command"], facts["started"])


def snapshot(run: Running, out: Path, build: Callable[[Path], Path]) -> int:
    """Write results and page of what is finished into ``out``; returns how many stages are.

    ``build`` makes a page of a folder of results.
    """
    outcome = Outcome()
    for stage in run.plan.stages:
        found = outcome_of(run.store, stage)
        if run.store.has(stage):
            outcome.done.add(stage.key)
        elif found and found["status"] == "failed":
            outcome.failures[stage.key] = Failure(stage, found["reason"], found["traceback"])
    done, total = len(outcome.done), len(run.plan.stages)
    if any(run.store.has(s) for cell in run.plan.cells for s in cell.results):
        write_run(run.plan, run.store, outcome, out, run.command, run.started)
        _keep_finished(out, done, total)
        build(out)
    return done


def _keep_finished(out: Path, done: int, total: int) -> None:
    """Leave out the rows that are still to come, and tell the page how far the run is."""
    import pandas as pd

    table = pd.read_parquet(out / "results.parquet")
    table = table[table["reason"] != "not computed"]
    write_atomically(out / "results.parquet", lambda p: table.to_parquet(p, index=False))
    info = json.loads((out / "run.json").read_text())
    info["live"] = {"done": done, "total": total, "refresh": EVERY}
    write_atomically(out / "run.json", lambda p: p.write_text(json.dumps(info, indent=1)))


def watch(folder: Path, build: Callable[[Path], Path], every: float = EVERY) -> Path:
    """Remake the page as the run goes on; returns the finished run's page once it has ended."""
    folder = folder.absolute()
    run = running(folder)
    out = folder / FOLDER
    out.mkdir(exist_ok=True)
    print(out / "report.html", flush=True)
    before = -1
    while (folder / LIVE).exists():
        done = sum(run.store.has(s) for s in run.plan.stages)
        if done != before:
            before = snapshot(run, out, build)
        time.sleep(every)
    shutil.rmtree(out)
    return folder / "report.html"
