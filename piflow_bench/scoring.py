"""The verb ``evaluate``: settings from the command line, progress, a table, files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError, nearest


@dataclass(frozen=True)
class Settings:
    """Settings of the verb; all others are settings of the metrics."""

    samples: str = ""
    reference: str = ""
    protocol: str = "default"
    extractor: str | None = None
    weights: str | None = None
    metrics: list[str] | None = None
    n: int | None = None
    device: str = "cpu"
    workers: int = 2
    batch: int = 32
    out: str | None = None
    store: str | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "reference"):
            if not getattr(self, name):
                raise ValueError(f"{name}=PATH is needed")
        for name in ("n", "workers", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")


def parse(arguments: Sequence[str]) -> tuple[Settings, dict[str, Any]]:
    """Settings of the verb, and those of the metrics.

    Raises:
        UserError: naming the key, its value and the nearest valid one.
    """
    import yaml

    from piflow_bench.config import build_dataclass, split_paths
    from piflow_bench.evaluation.settings import Settings as MetricSettings
    from piflow_bench.evaluation.settings import make_settings

    overrides, paths = split_paths(arguments)
    own = [f.name for f in fields(Settings)]
    of_metrics = [f.name for f in fields(MetricSettings)]
    values: dict[str, Any] = {}
    for path, value in paths.items():
        name = "weights" if path == "extractor.weights" else path
        if name not in own:
            raise UserError(f"{path}=: not a setting of evaluate")
        values[name] = value
    metric_values = {}
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{override}: {text} is no value; lists are written [a,b]") from error
        if key in of_metrics:
            metric_values[key] = value
        elif key in own:
            values[key] = value
        else:
            valid = [*(k for k in own if k != "weights"), "extractor.weights", *of_metrics]
            raise UserError(f"{key}: no such setting; {nearest(key, valid)}")
    settings = build_dataclass(Settings, values, "evaluate")
    make_settings(metric_values)
    return settings, metric_values


def store_root(settings: Settings) -> Path:
    """Where finished features are kept."""
    return Path(settings.store or os.environ.get("PIFLOW_BENCH_STORE") or "runs/store")


def run_evaluate(arguments: Sequence[str]) -> None:
    """Score, print a table and write ``scores.parquet`` and ``scores.json``."""
    settings, metric_values = parse(arguments)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table

    from piflow_bench.evaluation.score import evaluate

    out = Path(settings.out or f"runs/scores/{settings.protocol}")
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"out={out}: {existing} is no folder that can be written")
    console = Console()
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    try:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                progress.start()
                tasks[what] = progress.add_task(f"features of {what}", total=total)
            progress.update(tasks[what], completed=done)

        scores = evaluate(
            settings.samples,
            settings.reference,
            settings.protocol,
            extractor=settings.extractor,
            weights=settings.weights,
            metrics=settings.metrics,
            n=settings.n,
            device=settings.device,
            workers=settings.workers,
            batch=settings.batch,
            cache=store_root(settings) / "features",
            report=report,
            **metric_values,
        )
    finally:
        if progress.live.is_started:
            progress.stop()
    first = scores.iloc[0]
    table = Table(title=f"{first['protocol']} ({first['protocol_hash']}), {first['extractor']}")
    for column in ("metric", "value", "95 % interval", "n"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for row in scores.to_dict("records"):
        low, high = row["ci_low"], row["ci_high"]
        span = f"[{low:.5g}, {high:.5g}]" if low == low else ""
        n = f"{row['n']} / {row['n_reference']}"
        table.add_row(row["metric"], f"{row['value']:.5g}", span, n)
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    scores.to_parquet(out / "scores.parquet", index=False)
    (out / "scores.json").write_text(json.dumps(scores.to_dict("records"), indent=1))
    console.print(str(out / "scores.parquet"), soft_wrap=True)
