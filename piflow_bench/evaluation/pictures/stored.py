"""Samples of a run's store as pictures, which the run's own space makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.cache import PICTURES, about, read_shard, shard_folder
from piflow_bench.evaluation.pictures.axes import LAST, as_rgb
from piflow_bench.evaluation.pictures.folders import walk
from piflow_bench.evaluation.pictures.images import Images, printable
from piflow_bench.evaluation.pictures.npz import DAMAGED, reason
from piflow_bench.evaluation.pictures.shards import joined
from piflow_bench.evaluation.pictures.spaces import Look, open_space
from piflow_bench.files.atomic import read_json, write_arrays
from piflow_bench.files.digests import file_digest

if TYPE_CHECKING:
    from piflow_bench.contracts.space import Space

RECORD, SAMPLES = "artifact.json", "samples.npy"
"""What the store writes beside every artifact, and what samples are kept in."""
PART = 16
"""Samples that are decoded at a time, as a run does: with others a last bit may be another."""
RANGE = ("start", "stop")
"""Fields of a record in which the shards of one cell differ: which samples they hold."""


def is_artifact(folder: Path) -> bool:
    """Whether a folder is an artifact of the store: its record says that it holds samples."""
    record = read_json(folder / RECORD)
    files = record.get("files") if isinstance(record, dict) else None
    return isinstance(files, dict) and SAMPLES in files


def shards_of(folder: Path) -> list[Path]:
    """The artifacts of samples that a folder consists of, or links to; none of any other folder."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(found) if all(map(is_artifact, found)) else []


def open_artifact(folder: Path, what: str, look: Look) -> Images:
    """The pictures of an artifact's samples.

    Raises:
        UserError: also where images lie beside them, which may be what is meant.
    """
    path, where = folder / SAMPLES, f"{what}={folder}"
    beside = walk(folder, what).names
    if beside:
        raise UserError(
            f"{where}: an artifact of the store that also holds {len(beside)} images, such as "
            f"{beside[0]}; give these a folder of their own"
        )
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise UserError(f"{where}: {SAMPLES} {reason(error)}") from error
    recorded = _config(folder).get("space")
    if not isinstance(recorded, dict) or not {"name", "settings"} <= recorded.keys():
        raise UserError(
            f"{where}: its record names no space, so nobody knows what its samples show; the "
            "run's command makes it anew"
        )
    if x.ndim < 2 or x.dtype.kind != "f" or not len(x):
        raise UserError(f"{where}: {x.dtype} of shape {x.shape} are no samples")
    space, (height, width, channels) = open_space(recorded, x.shape[1:], look, where)
    if channels not in (1, 3):
        raise UserError(f"{where}: samples of shape {x.shape[1:]} are no images")

    @cache
    def fingerprint() -> str:
        text = f"{file_digest(path)} {json.dumps(recorded, sort_keys=True)}"
        return hashlib.sha256(text.encode()).hexdigest()

    seen = partial(_seen, x, space, where)
    rows: Callable[[np.ndarray], np.ndarray]
    if space.shape == (channels, height, width):  # To look at these costs next to nothing.
        rows = seen
    else:
        rows = _decoded(len(x), seen, partial(_place, look.cache, fingerprint, folder))
    return Images(str(folder), len(x), height, width, rows, fingerprint)


def _config(folder: Path) -> dict[str, Any]:
    """What determined an artifact, as its record says."""
    config = read_json(folder / RECORD).get("config")
    return config if isinstance(config, dict) else {}


def _seen(x: np.ndarray, space: Space, where: str, places: np.ndarray) -> np.ndarray:
    """Pictures ``(k, h, w, 3)`` uint8 of the samples at these places."""
    import torch

    some = np.array(x[places])
    if not np.isfinite(some).all():
        raise UserError(f"{where}: values that are not finite")
    assert space.pictures is not None
    return as_rgb(space.pictures(torch.from_numpy(some)), LAST)


def _place(kept: Path | None, fingerprint: Callable[[], str], folder: Path) -> Path | None:
    """Where pictures that were decoded are kept."""
    place = shard_folder(kept, fingerprint(), PICTURES) if kept else None
    if place is not None:
        about(place, printable(str(folder)), PICTURES)
    return place


def _decoded(
    n: int, seen: Callable[[np.ndarray], np.ndarray], place: Callable[[], Path | None]
) -> Callable[[np.ndarray], np.ndarray]:
    """Gives pictures of ``n`` samples, which ``seen`` decodes in parts and once."""
    kept = cache(place)

    @lru_cache(maxsize=8)
    def part(first: int) -> np.ndarray:
        count, folder = min(PART, n - first), kept()
        file = None if folder is None else folder / f"{first:08d}.npz"
        found = None if file is None else (read_shard(file) or {}).get(PICTURES)
        if found is None or len(found) != count:
            found = seen(np.arange(first, first + count))
            if file is not None:
                write_arrays(file, {PICTURES: found})
        return found

    def rows(places: np.ndarray) -> np.ndarray:
        return np.stack([part(int(i) // PART * PART)[int(i) % PART] for i in places])

    return rows


# ------------------------------------------------------------------ shards of one cell


def open_cell(folder: Path, shards: Sequence[Path], what: str, look: Look) -> Images:
    """The pictures of shards that are one set together, by the indices of their samples.

    Raises:
        UserError: unless they are of one cell, without a gap.
    """
    where = f"{what}={folder}"
    ranges = {}
    for path in shards:
        edges = [_config(path).get(key) for key in RANGE]
        if not all(isinstance(edge, int) for edge in edges):
            raise UserError(f"{where}: {path.name} is no shard of several; give it alone")
        ranges[path] = edges
    first, *others = ordered = sorted(shards, key=lambda path: ranges[path])
    for other in others:
        key, a, b = next(_differences(first, other), ("", None, None))
        if key:
            raise UserError(
                f"{where}: {first.name} and {other.name} are of two cells ({key}: {a} and {b}); "
                "one folder holds the shards of one, several sets are samples=[FOLDER,FOLDER]"
            )
    for a, b in pairwise(ordered):
        if ranges[a][1] != ranges[b][0]:
            raise UserError(
                f"{where}: {a.name} ends at sample {ranges[a][1]} and {b.name} begins at "
                f"{ranges[b][0]}; each sample is needed once"
            )
    return joined([open_artifact(path, what, look) for path in ordered], str(folder))


def _differences(a: Path, b: Path) -> Iterator[tuple[str, Any, Any]]:
    """In what two artifacts differ beside the samples that they hold."""
    for key in sorted({**_config(a), **_config(b)}.keys() - set(RANGE)):
        ours, theirs = _config(a).get(key), _config(b).get(key)
        if ours != theirs:
            yield key, ours, theirs
    for key in ("stage", "inputs"):
        ours, theirs = (read_json(path / RECORD).get(key) for path in (a, b))
        if ours != theirs:
            yield key, ours, theirs
