"""Writes a run's folder, and says what it is made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import piflow_bench
from piflow_bench.config.schema import to_plain
from piflow_bench.files.atomic import write_atomically, write_json
from piflow_bench.pipeline.launchers.schedule import Outcome
from piflow_bench.pipeline.plan import Plan
from piflow_bench.pipeline.results.closer import breakdown_table, selections
from piflow_bench.pipeline.results.facts import run_facts
from piflow_bench.pipeline.results.frames import save
from piflow_bench.pipeline.results.grids import grids
from piflow_bench.pipeline.results.schema import BREAKDOWN, CURVES, RESULTS, Table
from piflow_bench.pipeline.results.tables import curves_table, results_table
from piflow_bench.pipeline.store.store import Store
from piflow_bench.sources import package_digest


def fingerprint(plan: Plan, report_sources: str) -> str:
    """Hash of all that a run's results and page are made from: the code of intervals too."""
    content = [
        to_plain(plan.config),
        [stage.name for stage in plan.stages],
        {v.name: v.source for v in plan.variants},
        package_digest(Path(piflow_bench.__file__).parent),
        report_sources,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_run(
    plan: Plan,
    store: Store,
    outcome: Outcome,
    folder: Path,
    command: str,
    started: str,
    *,
    pending: bool = True,
    live: Mapping[str, Any] | None = None,
) -> None:
    """Write the tables, ``grids.npz``, ``selections.npz`` and ``run.json``, each whole or not.

    Args:
        plan: what the run was to do.
        store: where its stages' artifacts are.
        outcome: what became of its stages.
        folder: the run's; made where it is not there.
        command: what it was called by.
        started: when, in UTC (ISO 8601).
        pending: whether the results have rows of what is still to come.
        live: how far a run is that goes on, for its page; None: it has ended.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def keep(frame: pd.DataFrame, table: Table) -> None:
        write_atomically(folder / table.file, lambda path: save(path, frame, table))

    keep(results_table(plan, store, outcome, pending), RESULTS)
    keep(curves_table(plan, store), CURVES)
    keep(breakdown_table(plan, store), BREAKDOWN)
    write_atomically(folder / "grids.npz", _arrays(grids(plan, store)))
    write_atomically(folder / "selections.npz", _arrays(selections(plan, store)))
    about = run_facts(plan, store, outcome, command, started)
    about |= {"live": dict(live)} if live else {}
    write_json(folder / "run.json", about, indent=1)


def _arrays(arrays: dict[str, np.ndarray]) -> Callable[[Path], None]:
    """Writes arrays into a file of whatever name."""

    def write(path: Path) -> None:
        with path.open("wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    return write
