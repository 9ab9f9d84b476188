"""A folder of latents from its first claim to ``latents.json``, which makes it whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from piflow_bench.errors import UserError
from piflow_bench.files.atomic import read_json, write_json
from piflow_bench.preparation.job import CROP, SPOOL, UNFINISHED, WRITER, Job, Preparation
from piflow_bench.preparation.latents import FACTS, FORMAT, content_digest, shard_names
from piflow_bench.preparation.sources.source import ReadError
from piflow_bench.preparation.sources.spool import is_scattered, spooled_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """What the machine cannot do, as a UserError."""
    try:
        yield
    except ReadError as error:
        raise UserError(f"source: cannot be read: {error}") from error
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        words = "free space" if error.errno in FULL else "make it writable"
        raise UserError(
            f"out={folder}: {os.strerror(error.errno)}; {words}, then run the same command again: "
            "whole shards are kept"
        ) from error


def refuse_other(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """UserError where a folder was begun by another task, naming what differs."""
    for key, value in now.items():
        if before.get(key) != value:
            raise UserError(
                f"out={folder}: was begun with {key}={before.get(key)}, not {value}; choose "
                "another folder, or remove it"
            )


def check_skipped(skipped: list[str], chosen: Preparation, folder: Path) -> None:
    """UserError where a folder lacks images that may not be left out now."""
    if skipped and not chosen.skip_corrupt:
        raise UserError(
            f"out={folder}: was begun with skip_corrupt=true and lacks {skipped[0]}; set "
            "skip_corrupt=true, or choose another folder"
        )


def is_begun(job: Job, task: dict[str, Any]) -> bool:
    """Whether the folder bears this task's mark: of a whole folder, or of an unfinished one.

    Other calls may begin and finish meanwhile. They write nothing else before the first mark is
    there, and take it away when the second is: so other names are looked for before the marks, and
    the marks in their order.

    Raises:
        UserError: the folder is another task's, or holds other files.
    """
    folder, chosen = job.folder, job.chosen
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={folder}: is a file; choose an empty folder")
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    begun, facts = read_json(folder / UNFINISHED), read_json(folder / FACTS)
    if facts is not None:
        refuse_other(facts["task"], task, folder)
        check_skipped(facts["skipped"], chosen, folder)
        return True
    if begun is not None:
        refuse_other(begun, task, folder)
        records = [read_json(path) for path in sorted(folder.glob("shard-*.json"))]
        # One that has gone was taken by a call that finished with the same images left out.
        check_skipped([name for r in records if r for name in r["skipped"]], chosen, folder)
        return True
    if any(not fnmatch(name, f".{UNFINISHED}.*.tmp") for name in names):
        raise UserError(f"out={folder}: holds other files; choose an empty folder")
    return False


def is_whole(job: Job) -> bool:
    """Whether nothing is left to be made."""
    return (job.folder / FACTS).is_file()


def begin(job: Job, task: dict[str, Any]) -> None:
    """Claim the folder, and see that there is room.

    Raises:
        UserError: the folder is another task's or holds other files, or there is no room.
    """
    folder, chosen, coder = job.folder, job.chosen, job.coder
    assert coder is not None
    begun = is_begun(job, task)
    if is_whole(job):
        return
    side = chosen.size // coder.factor
    numbers = coder.channels * side**2 * (2 if chosen.kind == "mean-std" else 1)
    needed = len(job.images) * numbers * (2 if chosen.flip else 1) * np.dtype(chosen.dtype).itemsize
    there = sum(p.stat().st_size for p in folder.glob("shard-*.npy"))
    copied, words = 0, ""
    if is_scattered(job.images) and not (folder / SPOOL).is_file():
        copied = spooled_bytes(job.images)
        words = f" and {copied / 1e9:.1f} GB for a passing copy of the shuffled images"
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed - there + copied > free:
        raise UserError(
            f"out={folder}: {needed / 1e9:.1f} GB of latents{words}, {free / 1e9:.1f} GB free; "
            "choose another disk, kind=sample, or flip=false"
        )
    if begun:
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_json(folder / UNFINISHED, task)
    except FileNotFoundError:  # Tidied away by a call that began later and has finished.
        if not is_whole(job):
            raise


def finish(job: Job, task: dict[str, Any]) -> None:
    """Write ``latents.json``, which makes the folder whole."""
    folder, chosen, coder = job.folder, job.chosen, job.coder
    assert coder is not None
    count = len(job.shards())
    with FileLock(folder / "finish.lock"):
        if not (folder / FACTS).is_file():
            records = [json.loads(job.record(i).read_text()) for i in range(count)]
            side = chosen.size // coder.factor
            labels = np.concatenate([np.load(folder / shard_names(i)[1]) for i in range(count)])
            if not len(labels):
                raise UserError(f"out={folder}: none of the images could be decoded")
            facts: dict[str, Any] = {
                "format": FORMAT,
                "writer": WRITER,
                "kind": chosen.kind,
                "dtype": chosen.dtype,
                "shape": [coder.channels, side, side],
                "flip": chosen.flip,
                "size": chosen.size,
                "crop": CROP,
                "classes": chosen.classes,
                "class_names": job.images.classes,
                "count": len(labels),
                "class_counts": np.bincount(labels, minlength=chosen.classes).tolist(),
                "scaling": coder.scaling,
                "shift": coder.shift,
                "autoencoder": coder.digest,
                "source": {"description": job.images.description, "sha256": task["source"]},
                "shards": [
                    {"files": shard_names(i), "rows": r["rows"], "sha256": r["sha256"]}
                    for i, r in enumerate(records)
                ],
                "skipped": [name for r in records for name in r["skipped"]],
                "task": task,
            }
            facts["digest"] = content_digest(facts)
            write_json(folder / FACTS, facts, indent=1)
    leftovers = (".*.tmp", "shard-*.json", "*.lock", UNFINISHED)
    for path in [p for pattern in leftovers for p in folder.glob(pattern)]:
        path.unlink(missing_ok=True)
