"""Features of a set of images: batch by batch, kept on disk, taken up again where it stopped.

They are kept in shards of ``SHARD`` rows of the whole set, whichever rows were asked for: any n of
its images takes from the same shards, and only what these lack is computed. Neither the number of
threads nor that of processes decides which images meet in a batch.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.contracts.extractor import Extractor, Recipe
from piflow_bench.evaluation.cache import (
    SHARD,
    Arrays,
    Progress,
    about,
    read_shard,
    shard_folder,
    silent,
)
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.pictures.images import Images
from piflow_bench.evaluation.pictures.npz import DAMAGED
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.pictures.spaces import Look
from piflow_bench.files.atomic import write_arrays
from piflow_bench.threads import cores

DIGESTS = "digests"
"""Name of the output that tells equal images: ``(n,)`` uint64 of their pixels."""
ROWS = "rows"
"""Which rows ``(k,)`` a shard holds, ascending, where it does not hold all."""


def extract(
    images: Images,
    extractor: Extractor,
    cache: Path | None,
    batch: int = 4,
    report: Progress = silent,
    processes: int = 1,
) -> Arrays:
    """Outputs of all images, float32, by name; and ``DIGESTS``.

    Args:
        images: the set.
        extractor: the network.
        cache: folder of finished features, shared by everything that scores; None to keep nothing.
        batch: images at once.
        report: called with images done and to do.
        processes: how many share the work, on a GPU each where there are several. Each opens
            the images and the network again, so both must be known by name or be picklable.
    """
    rows = np.arange(len(images)) if images.chosen is None else np.unique(images.chosen)
    # Without a cache nobody asks for the digest of all files.
    folder = shard_folder(cache, images.fingerprint(), extractor.key) if cache else None
    if folder is not None:
        about(folder, f"{images.path}: {extractor.name}")
    shards = {int(part[0] // SHARD * SHARD): part for part in _by_shard(rows)}
    missing = {first: _missing(folder, first, part) for first, part in shards.items()}
    done = len(rows) - sum(map(len, missing.values()))
    report(done, len(rows))
    found: dict[int, Arrays] = {}
    groups = list(_groups(missing))
    workers = min(processes, len(groups))
    with ThreadPoolExecutor(1) as ahead:

        def here() -> Iterator[tuple[np.ndarray, Arrays]]:
            for group in groups:

                def told(more: int, before: int = done) -> None:
                    report(before + more, len(rows))

                yield group, _outputs(images, extractor, group, batch, ahead, told)

        computed = here()
        if workers > 1 and extractor.recipe is not None and images.source is not None:
            work = _Work(
                images.source, images.workers, images.look or Look(), extractor.recipe, batch
            )
            computed = _in_processes(work, groups, workers)
        for group, outputs in computed:
            found |= _kept(folder, group, outputs)
            done += len(group)
            report(done, len(rows))
        parts = []
        for first, part in shards.items():
            held = found.get(first) or _held(folder, first)
            if held is None or not np.isin(part, held[ROWS]).all():  # Damaged, or taken away.
                outputs = _outputs(images, extractor, part, batch, ahead, lambda more: None)
                held = outputs | {ROWS: part}
                _keep(folder, first, held)
            places = np.searchsorted(held[ROWS], part)
            whole = len(places) == len(held[ROWS])
            parts.append({k: v if whole else v[places] for k, v in held.items() if k != ROWS})
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if images.chosen is None or np.array_equal(images.chosen, rows):
        return arrays
    order = np.searchsorted(rows, images.chosen)
    return {name: outputs[order] for name, outputs in arrays.items()}


# ------------------------------------------------------------------ shards of rows


def _by_shard(rows: np.ndarray) -> list[np.ndarray]:
    """Ascending rows, parted by the shards that they lie in."""
    return np.split(rows, np.flatnonzero(np.diff(rows // SHARD)) + 1)


def _missing(folder: Path | None, first: int, rows: np.ndarray) -> np.ndarray:
    """Those of a shard's rows that are not kept; only the shard's list of rows is read."""
    if folder is None:
        return rows
    try:
        with np.load(folder / f"{first:08d}.npz", allow_pickle=False) as arrays:
            held = arrays[ROWS] if ROWS in arrays else first + np.arange(len(arrays[DIGESTS]))
    except (*DAMAGED, KeyError):
        return rows
    return np.setdiff1d(rows, held, assume_unique=True)


def _groups(missing: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
    """Rows to compute at a time, some ``SHARD``: few of one shard have batches with another's."""
    gathered: list[np.ndarray] = []
    for rows in missing.values():
        if len(rows):
            gathered.append(rows)
        if sum(map(len, gathered)) >= SHARD:
            yield np.concatenate(gathered)
            gathered = []
    if gathered:
        yield np.concatenate(gathered)


def _held(folder: Path | None, first: int) -> Arrays | None:
    """A shard with the rows that it holds; None where there is none, or it is damaged."""
    arrays = None if folder is None else read_shard(folder / f"{first:08d}.npz")
    if arrays is None or DIGESTS not in arrays:
        return None
    return {ROWS: first + np.arange(len(arrays[DIGESTS]))} | arrays


def _keep(folder: Path | None, first: int, arrays: Arrays) -> None:
    """Write a shard; its rows are named where they do not begin it without a gap."""
    if folder is None:
        return
    rows = arrays[ROWS]
    whole = np.array_equal(rows, first + np.arange(len(rows)))
    kept = {k: v for k, v in arrays.items() if k != ROWS or not whole}
    write_arrays(folder / f"{first:08d}.npz", kept)


def _kept(folder: Path | None, rows: np.ndarray, outputs: Arrays) -> dict[int, Arrays]:
    """Shards with the outputs of these rows added, written; what was not written is returned."""
    found: dict[int, Arrays] = {}
    start = 0
    for part in _by_shard(rows):
        first, stop = int(part[0] // SHARD * SHARD), start + len(part)
        new = {name: values[start:stop] for name, values in outputs.items()} | {ROWS: part}
        start = stop
        if folder is None:
            found[first] = new
            continue
        held = _held(folder, first)
        if held is not None:
            new = _joined(held, new)
        _keep(folder, first, new)
    return found


def _joined(held: Arrays, new: Arrays) -> Arrays:
    """Rows of both, ascending; of those in both the new ones."""
    old = ~np.isin(held[ROWS], new[ROWS])
    joined = {name: np.concatenate([held[name][old], new[name]]) for name in new}
    order = np.argsort(joined[ROWS], kind="stable")
    return {name: values[order] for name, values in joined.items()}


def _outputs(
    images: Images,
    extractor: Extractor,
    rows: np.ndarray,
    batch: int,
    ahead: ThreadPoolExecutor,
    report: Callable[[int], None],
) -> Arrays:
    """Outputs of these rows of the whole set; the next batch is read while the network works."""
    parts = [rows[first : first + batch] for first in range(0, len(rows), batch)]
    outputs: list[Arrays] = []
    following = ahead.submit(images.rows, parts[0])
    done = 0
    for i, part in enumerate(parts):
        pixels = following.result()
        if i + 1 < len(parts):
            following = ahead.submit(images.rows, parts[i + 1])
        outputs.append(extractor(pixels) | {DIGESTS: _digests(pixels)})
        done += len(part)
        report(done)
    return {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}


def _digests(images: np.ndarray) -> np.ndarray:
    found = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(found), "<u8")


# ------------------------------------------------------------------ processes


@dataclass(frozen=True)
class _Work:
    """All that a process needs to extract some rows."""

    source: Any
    workers: int
    look: Look
    recipe: Recipe
    batch: int


def _in_processes(
    work: _Work, groups: Sequence[np.ndarray], processes: int
) -> Iterator[tuple[np.ndarray, Arrays]]:
    """All groups of rows with their outputs, as these are ready."""
    # A forked process could not use a GPU that this one has touched.
    context = multiprocessing.get_context("spawn")
    turns = context.Value("i", 0)
    threads = max(1, cores() // processes)
    with ProcessPoolExecutor(
        processes, context, initializer=_begin, initargs=(work, turns, threads)
    ) as pool:
        futures = {pool.submit(_group_here, group): group for group in groups}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_here: tuple[_Work, Images, Extractor] | None = None
"""What this process works with, where it is one of several."""


def _begin(work: _Work, turns: Any, threads: int) -> None:
    global _here
    import torch

    torch.set_num_threads(threads)
    device = work.recipe.device
    if device == "cuda":
        with turns.get_lock():
            device = f"cuda:{turns.value % torch.cuda.device_count()}"
            turns.value += 1
    images = open_images(work.source, "samples", work.workers, replace(work.look, device=device))
    _here = work, images, get_extractor(*work.recipe._replace(device=device))


def _group_here(rows: np.ndarray) -> Arrays:
    """The outputs of a group of rows."""
    assert _here is not None
    work, images, extractor = _here
    with ThreadPoolExecutor(1) as ahead:
        return _outputs(images, extractor, rows, work.batch, ahead, lambda done: None)
