"""Features of a set of images: batch by batch, kept on disk, taken up again where it stopped.

A set's features are written in shards of ``SHARD`` images under the hash of the images, the
extractor's identity and the number of images, and joined when all are there. Shards and batches
start at fixed rows, so an interruption or another number of threads changes no bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from piflow_bench.evaluation.extractors.extractor import Extractor
from piflow_bench.evaluation.images import Images

SHARD = 1024


def extract(
    images: Images,
    extractor: Extractor,
    cache: Path,
    n: int | None = None,
    batch: int = 32,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """Outputs of the first ``n`` images, float32, by name.

    Args:
        images: the set.
        extractor: the network.
        cache: folder of finished features; shared by everything that scores.
        n: how many images; None for all.
        batch: images at once.
        report: called with images done and to do.
    """
    total = len(images) if n is None else min(n, len(images))
    key = hashlib.sha256(
        json.dumps([images.digest(), extractor.name, extractor.rule, extractor.weights, total])
        .encode()
    ).hexdigest()[:32]  # fmt: skip
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    with ThreadPoolExecutor(1) as ahead:
        for first in range(0, total, SHARD):
            last = min(first + SHARD, total)
            path = folder / f"{first:08d}.npz"
            if not path.exists():
                _write(path, _shard(images, extractor, first, last, batch, ahead, report, total))
            shards.append(path)
            report(last, total)
    parts = [dict(np.load(path, allow_pickle=False)) for path in shards]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _shard(
    images: Images,
    extractor: Extractor,
    first: int,
    last: int,
    batch: int,
    ahead: ThreadPoolExecutor,
    report: Callable[[int, int], None],
    total: int,
) -> dict[str, np.ndarray]:
    """One shard's outputs; the next batch is read while the network works on this one."""
    edges = list(range(first, last, batch))
    outputs: list[dict[str, np.ndarray]] = []
    following = ahead.submit(images.read, edges[0], min(edges[0] + batch, last))
    for i, start in enumerate(edges):
        rows = following.result()
        if i + 1 < len(edges):
            following = ahead.submit(images.read, edges[i + 1], min(edges[i + 1] + batch, last))
        outputs.append(extractor(rows))
        report(start + len(rows), total)
    return {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
