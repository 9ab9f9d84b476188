"""Features of a set of images: batch by batch, kept on disk, taken up again where it stopped.

What is computed image by image is written in shards of ``SHARD`` images and joined when all are
there. Shards and batches start at fixed rows, so neither an interruption nor the number of threads
or processes decides which images meet in a batch.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.evaluation.extractors.extractor import Extractor, get_extractor
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.npz import DAMAGED
from piflow_bench.evaluation.pictures.opening import open_images

SHARD = 1024
DIGESTS = "digests"
"""Name of the output that tells equal images: ``(n,)`` uint64 of their pixels."""
Arrays = dict[str, np.ndarray]
"""Rows ``(n, ...)`` by name."""
Progress = Callable[[int, int], None]
"""Called with images done and to do."""


def _silent(done: int, total: int) -> None:
    pass


def extract(
    images: Images,
    extractor: Extractor,
    cache: Path,
    batch: int = 4,
    report: Progress = _silent,
    processes: int = 1,
) -> Arrays:
    """Outputs of all images, float32, by name; and ``DIGESTS``.

    Args:
        images: the set.
        extractor: the network.
        cache: folder of finished features; shared by everything that scores.
        batch: images at once.
        report: called with images done and to do.
        processes: how many share the shards, on a GPU each where there are several. Each opens
            the images and the network again, so both must be known by name or be picklable.
    """
    total = len(images)
    folder = shard_folder(cache, images.digest(), extractor.key)
    missing = [first for first, path in _shards(folder, total) if not path.exists()]
    if processes > 1 and len(missing) > 1 and extractor.recipe is not None:
        work = _Work(
            images.source, images.workers, images.chosen, extractor.recipe, folder, total, batch
        )
        _in_processes(work, missing, min(processes, len(missing)), report)
    with ThreadPoolExecutor(1) as ahead:

        def shard(first: int, last: int) -> Arrays:
            def told(done: int) -> None:
                report(done, total)

            return _outputs(images, extractor, first, last, batch, ahead, told)

        return in_shards(folder, total, shard, report)


def shard_folder(cache: Path, *identity: Any) -> Path:
    """The folder of what the identity (strings and numbers) names."""
    return cache / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]


def in_shards(
    folder: Path, total: int, shard: Callable[[int, int], Arrays], report: Progress = _silent
) -> Arrays:
    """Arrays of ``total`` rows; ``shard(first, last)`` is called for what ``folder`` lacks, and for
    what is damaged there.
    """
    for first, path in _shards(folder, total):
        last = min(first + SHARD, total)
        if not path.exists():
            _write(path, shard(first, last))
        report(last, total)
    parts = []
    for first, path in _shards(folder, total):
        try:
            parts.append(_read(path))
        except DAMAGED:
            path.unlink()
            _write(path, shard(first, min(first + SHARD, total)))
            parts.append(_read(path))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _shards(folder: Path, total: int) -> Iterable[tuple[int, Path]]:
    return [(first, folder / f"{first:08d}.npz") for first in range(0, total, SHARD)]


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def _outputs(
    images: Images,
    extractor: Extractor,
    first: int,
    last: int,
    batch: int,
    ahead: ThreadPoolExecutor,
    report: Callable[[int], None],
) -> Arrays:
    """One shard's outputs; the next batch is read while the network works on this one."""
    edges = list(range(first, last, batch))
    outputs: list[Arrays] = []
    following = ahead.submit(images.read, edges[0], min(edges[0] + batch, last))
    for i, start in enumerate(edges):
        rows = following.result()
        if i + 1 < len(edges):
            following = ahead.submit(images.read, edges[i + 1], min(edges[i + 1] + batch, last))
        outputs.append(extractor(rows) | {DIGESTS: _digests(rows)})
        report(start + len(rows))
    return {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}


def _digests(images: np.ndarray) -> np.ndarray:
    found = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(found), "<u8")


# ------------------------------------------------------------------ processes


@dataclass(frozen=True)
class _Work:
    """All that a process needs to extract a shard."""

    source: Any
    workers: int
    chosen: np.ndarray | None
    recipe: tuple[str, str | None, str, str, bool]
    folder: Path
    total: int
    batch: int


def _in_processes(work: _Work, missing: list[int], processes: int, report: Progress) -> None:
    # A forked process could not use a GPU that this one has touched.
    context = multiprocessing.get_context("spawn")
    turns = context.Value("i", 0)
    threads = max(1, (os.cpu_count() or 1) // processes)
    edges = [(first, min(first + SHARD, work.total)) for first in missing]
    done = work.total - sum(last - first for first, last in edges)
    report(done, work.total)
    with ProcessPoolExecutor(
        processes, context, initializer=_begin, initargs=(work, turns, threads)
    ) as pool:
        futures = [pool.submit(_shard_here, *edge) for edge in edges]
        try:
            for future in as_completed(futures):
                done += future.result()
                report(done, work.total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_here: tuple[_Work, Images, Extractor] | None = None
"""What this process works with, where it is one of several."""


def _begin(work: _Work, turns: Any, threads: int) -> None:
    global _here
    import torch

    torch.set_num_threads(threads)
    name, weights, device, precision, compiled = work.recipe
    if device == "cuda":
        with turns.get_lock():
            device = f"cuda:{turns.value % torch.cuda.device_count()}"
            turns.value += 1
    images = open_images(work.source, "samples", work.workers)
    if work.chosen is not None:
        images = images.take(work.chosen)
    _here = work, images, get_extractor(name, weights, device, precision, compiled)


def _shard_here(first: int, last: int) -> int:
    """Write a shard; returns its number of images."""
    assert _here is not None
    work, images, extractor = _here
    with ThreadPoolExecutor(1) as ahead:
        arrays = _outputs(images, extractor, first, last, work.batch, ahead, lambda done: None)
    _write(work.folder / f"{first:08d}.npz", arrays)
    return last - first
