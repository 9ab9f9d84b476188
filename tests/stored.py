"""Artifacts of samples without a run, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.evaluation.pictures.stored import RECORD, SAMPLES

PIXELS = {"name": "pixels", "settings": {"levels": 256}}
GREY = {"name": "grey-levels", "settings": {"levels": 17}}


def artifact(
    folder: Path, x: np.ndarray, space: dict[str, Any] | None = PIXELS, **config: Any
) -> Path:
    """A folder of the store, as far as its samples ``x`` go."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / SAMPLES, x)
    known = {"space": space, **config} if space else config
    record = {"stage": "sample", "files": {SAMPLES: "0"}, "config": known, "inputs": {}}
    (folder / RECORD).write_text(json.dumps(record))
    return folder
