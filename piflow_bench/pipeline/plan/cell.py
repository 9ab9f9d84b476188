"""One cell of the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from piflow_bench.pipeline.stage import Stage


@dataclass(frozen=True)
class Cell:
    """One result: where its parts are, and the columns of its rows."""

    columns: dict[str, Any]
    results: tuple[Stage, ...]
    samples: tuple[Stage, ...] = ()
    distill: Stage | None = None
    checkpoint: int | None = None
    closer: tuple[Stage, ...] = ()
    """A closer look at one set of samples for the page: no rows of results come from it."""
