"""What a running stage says of itself: a share and a line of text, in its work folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

PROGRESS = "progress.json"
EVERY = 0.5
"""Seconds between two words."""


def progress_writer(folder: Path) -> Callable[[float, str], None]:
    """``report(share, text)`` for a stage that works in ``folder``."""
    last = 0.0

    def report(share: float, text: str) -> None:
        nonlocal last
        if time.time() - last > EVERY:
            last = time.time()
            temporary = folder / (PROGRESS + ".tmp")
            temporary.write_text(json.dumps([share, text]))
            os.replace(temporary, folder / PROGRESS)

    return report
