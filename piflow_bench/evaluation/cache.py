"""Arrays that are kept on disk under what decides them: features, scores, decoded pictures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.evaluation.pictures.npz import DAMAGED
from piflow_bench.files.atomic import write_arrays, write_json

SHARD = 1024
"""Rows of a file."""
ABOUT = "about.json"
"""What a folder of shards is of, in words."""
FEATURES, PICTURES = "features", "pictures"
"""Kinds of what is kept."""
Arrays = dict[str, np.ndarray]
"""Rows ``(n, ...)`` by name."""
Progress = Callable[[int, int], None]
"""Called with images done and to do."""


def silent(done: int, total: int) -> None:
    """Progress that nobody is told of."""


def shard_folder(cache: Path | None, *identity: Any) -> Path | None:
    """The folder of what the identity (strings and numbers) names; None without a cache."""
    if cache is None:
        return None
    return cache / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def about(folder: Path, label: str, kind: str = FEATURES) -> None:
    """Make a folder of shards, or note that it was used; ``label`` says what it is of."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ABOUT).is_file():
        write_json(folder / ABOUT, {"label": label, "kind": kind})
    with suppress(OSError):  # Another user's, say.
        os.utime(folder)


def in_shards(
    folder: Path | None,
    total: int,
    shard: Callable[[int, int], Arrays],
    report: Progress = silent,
    label: str = "",
) -> Arrays:
    """Arrays of ``total`` rows; ``shard(first, last)`` is called for what ``folder`` lacks, and for
    what is damaged there. Without a folder nothing is kept.
    """
    if folder is not None:
        about(folder, label)
    parts = []
    for first in range(0, total, SHARD):
        last = min(first + SHARD, total)
        path = None if folder is None else folder / f"{first:08d}.npz"
        part = None if path is None else read_shard(path)
        if part is None:
            part = shard(first, last)
            if path is not None:
                write_arrays(path, part)
        parts.append(part)
        report(last, total)
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def read_shard(path: Path) -> Arrays | None:
    """What a shard holds; None where it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except DAMAGED:
        return None
