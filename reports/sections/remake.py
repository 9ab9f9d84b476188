"""Every cell of a run with what it takes to make it again: command, artifact, times."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
from piflow_reports.data.series import Primary, final, with_series
from piflow_reports.format import names as words

from piflow_bench.pipeline.results.schema import Status

NARROWING = ("name=", "only=", "nfes=", "train_seeds=")


def cells(results: pd.DataFrame, info: dict[str, Any], primary: Primary) -> list[dict[str, str]]:
    """A record per cell at the full budget, of its first row of the primary question."""
    rows = with_series(final(results))
    rows = rows[rows["question"].isin([primary.question, ""]) | (rows["status"] != Status.OK)]
    keys = ["role", "series", "nfe", "train_seed", "sample_seed"]
    rows = rows.sort_values("question", key=lambda q: q != primary.question, kind="stable")
    first = rows.drop_duplicates(keys).sort_index()
    command = str(info.get("command") or "")
    variants = {str(v.get("name")): v for v in info.get("variants") or []}
    return [
        {
            "series": row["series"],
            "nfe": _whole(row["nfe"]),
            "seed": _whole(row["train_seed"]),
            "sample_seed": _whole(row["sample_seed"]),
            "artifact": row["artifact"],
            "status": row["status"],
            "start": row["start"],
            "training": words.duration(row["train_seconds"]) if row["train_seconds"] else "",
            "metrics": words.duration(row["duration"]),
            "hardware": row["hardware"],
            "commit": row["git_commit"],
            "command": remake(command, row, variants, str(info.get("name") or "")),
        }
        for row in first.to_dict("records")
    ]


def remake(command: str, row: dict[Any, Any], variants: dict[str, dict[str, Any]], run: str) -> str:
    """The run's command narrowed to what makes one row, in a folder of its own.

    Controls, and teachers beside given weights, are made by the whole run: its command stays.
    """
    try:
        parts = shlex.split(command)
    except ValueError:
        return command
    name = str(row["variant"])
    given = any(part.startswith("student.checkpoint=") for part in parts)
    if not parts or name not in variants or (given and row["role"] != "student"):
        return command
    # What repeats a variant is made by it: the A/A control beside it, a shared budget in its place.
    entered = str(variants[name].get("base") or name)
    kept = [part for part in parts if not part.startswith(NARROWING)]
    kept += [f"name={run[:60]}-row"] if run else []
    kept.append(f"only=[{entered}]")
    kept += [f"nfes=[{_whole(row['nfe'])}]"] if words.finite(row["nfe"]) else []
    if row["shares"] > 1:
        budget = variants[name].get("budget") or {}
        kept += [
            f"variants.{entered}.budget.{key}={budget[key]}" for key in ("amount", "checkpoints")
        ]
    kept += [f"train_seeds=[{_whole(row['train_seed'])}]"] if row["train_seed"] >= 0 else []
    return shlex.join(kept)


def _whole(value: float) -> str:
    return f"{value:.0f}" if words.finite(value) else ""
