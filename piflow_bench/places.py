"""Where the store and what `evaluate` keeps are, where nobody says."""

from __future__ import annotations

import os
from pathlib import Path

RUNS = "runs"
CACHE = "features"
"""The store's folder of features and pictures that `evaluate` keeps."""


def store_root(store: str | Path | None = None, runs: str | Path = RUNS) -> Path:
    """The store: as it is given, else PIFLOW_BENCH_STORE, else ``runs/store``."""
    return Path(store or os.environ.get("PIFLOW_BENCH_STORE") or Path(runs) / "store")
