"""What a training leaves in its folder: weights and costs at every checkpoint, and its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"
CHECKPOINTS_FILE = "checkpoints.json"


def weights_file(folder: Path, checkpoint: int | None = None) -> Path:
    """The averaged weights at a checkpoint of the budget; None: the first, or only, one."""
    return folder / f"checkpoint_{checkpoint or 0}.safetensors"


def checkpoints(folder: Path) -> list[dict[str, Any]]:
    """What had been spent at every checkpoint."""
    found: list[dict[str, Any]] = json.loads((folder / CHECKPOINTS_FILE).read_text())
    return found


def log_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the log, a step each."""
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
