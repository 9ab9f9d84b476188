"""What a running stage says of itself: a share and a line of text, in its work folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from piflow_bench.files.atomic import read_json, write_json

PROGRESS = "progress.json"
EVERY = 0.5
"""Seconds between two words."""


@dataclass(frozen=True)
class Progress:
    """The last word of a stage."""

    share: float
    """Of the work that is done, 0 to 1."""
    text: str
    left: float | None
    """Seconds until it ends, by the pace of this attempt; None before that is known."""


def progress_writer(folder: Path) -> Callable[[float, str], None]:
    """``report(share, text)`` for a stage that works in ``folder``."""
    last = 0.0
    first: tuple[float, float] | None = None

    def report(share: float, text: str) -> None:
        nonlocal last, first
        now = time.time()
        first = first or (now, share)
        if now - last > EVERY:
            last = now
            began, done = first
            pace = (share - done) / (now - began) if now > began else 0.0
            left = round((1 - share) / pace, 1) if pace > 0 else None
            write_json(folder / PROGRESS, [share, text, left])

    return report


def read_progress(folder: Path) -> Progress | None:
    """The last word of the stage that works in ``folder``."""
    try:
        return Progress(*read_json(folder / PROGRESS))
    except TypeError:
        return None
