"""Latents in shards, each written whole or not at all by whoever holds its lock."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from filelock import FileLock, Timeout

from piflow_bench.files.atomic import write_array, write_json
from piflow_bench.files.digests import file_digest
from piflow_bench.preparation.encode import decoded, encode
from piflow_bench.preparation.job import Job, Report
from piflow_bench.preparation.latents import shard_names

LATENTS = "latents"
"""What is said to be done."""


def encode_shards(job: Job, report: Report) -> None:
    """Encode every shard that nobody has, then wait for those that others are at."""
    shards, total = job.shards(), len(job.images)
    done = sum(len(rows) for i, rows in enumerate(shards) if job.is_done(i))
    report(LATENTS, done, total)

    def told(images: int) -> None:
        nonlocal done
        done += images
        report(LATENTS, min(done, total), total)

    # Whoever holds a shard may die without having written it: the second round waits and looks.
    for patience in (0, -1):
        for index, rows in enumerate(shards):
            if job.is_done(index):
                continue
            try:
                with FileLock(job.folder / f"shard-{index:05d}.lock", timeout=patience):
                    if not job.is_done(index):
                        _encode_shard(job, rows, index, told)
            except Timeout:
                continue


def _encode_shard(job: Job, rows: range, index: int, told: Callable[[int], None]) -> None:
    images, chosen, coder, folder = job.images, job.chosen, job.coder, job.folder
    assert coder is not None
    side = chosen.size // coder.factor
    numbers = coder.channels * (2 if chosen.kind == "mean-std" else 1)
    views = 2 if chosen.flip else 1
    latents = np.empty((len(rows), views, numbers, side, side), chosen.dtype)
    labels: list[int] = []
    skipped: list[str] = []
    for group, found in decoded(job, rows):
        kept = [i for i, pixels in zip(group, found, strict=True) if pixels is not None]
        skipped += [images.names[i] for i in group if i not in kept]
        if kept:
            pixels = np.stack([p for p in found if p is not None])
            start = len(labels)
            labels += [images.labels[i] for i in kept]
            latents[start : len(labels)] = encode(pixels, kept, coder, chosen)
        told(len(group))
    for stale in folder.glob(f".shard-{index:05d}.*.tmp"):  # Of a process that was killed.
        stale.unlink()
    digests = []
    arrays = latents[: len(labels)], np.array(labels, np.int64)
    for name, array in zip(shard_names(index), arrays, strict=True):
        # The record below must not outlive what it vouches for.
        write_array(folder / name, array, sync=True)
        digests.append(file_digest(folder / name))
    record = {"rows": len(labels), "sha256": digests, "skipped": skipped}
    write_json(job.record(index), record)
