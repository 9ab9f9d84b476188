"""``prepare imagenet``: images to latents on disk, once, so that training never sees a JPEG.

Every shard is written whole or not at all, so a killed run goes on where it was and ends with the
same bytes. Several processes take shards as they come, each with a GPU of its own where there are
several.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from piflow_bench.data.images_source import ImageSource, centre_crop, decode, open_source
from piflow_bench.data.latents import FACTS, FORMAT, KINDS, content_digest, shard_names
from piflow_bench.errors import UserError
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.randomness import SampleRandom

UNFINISHED = "unfinished.json"
DECODERS = 4
"""Threads that decode images ahead of the encoder."""


@dataclass(frozen=True)
class Preparation:
    """What decides the latents, beside the images and the autoencoder."""

    size: int = 256
    """Side of the cropped images, pixels."""
    kind: str = "mean-std"
    """mean-std | sample."""
    flip: bool = True
    """Whether mirror images are encoded too."""
    dtype: str = "float16"
    """float16 | float32, of what is stored."""
    classes: int = 1000
    shard: int = 10000
    """Images in a shard."""
    seed: int = 0
    """Of the encoder's noise, where samples are stored."""
    skip_corrupt: bool = False
    """Whether images that cannot be decoded are left out."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"kind={self.kind}: must be {' or '.join(KINDS)}")
        if self.dtype not in ("float16", "float32"):
            raise UserError(f"dtype={self.dtype}: must be float16 or float32")
        for name in ("size", "classes", "shard"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: must be at least 1")


def prepare(
    source: str,
    out: str,
    autoencoder: str = "hf://stabilityai/sd-vae-ft-ema",
    batch: int = 32,
    device: str | None = None,
    processes: int = 1,
    report: Any = lambda done, total, text: None,
    **settings: Any,
) -> Path:
    """Encode the images of ``source`` into ``out``; goes on where an earlier call was stopped.

    Args:
        source: see ``images_source.open_source``.
        out: the folder of latents.
        autoencoder: see ``Autoencoder.load``.
        batch: images encoded at once; changes no result beyond rounding.
        device: cpu or cuda; None for a GPU where there is one.
        processes: how many encode at once.
        report: called with images done, images in all, and words.
        settings: the fields of ``Preparation``.

    Raises:
        UserError: naming what is wrong with the images, the folder or the settings.
    """
    chosen = Preparation(**settings)
    folder = Path(out)
    images = open_source(Path(source).expanduser(), chosen.classes)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    coder = Autoencoder.load(autoencoder, device)
    if chosen.size % coder.factor:
        raise UserError(f"size={chosen.size}: must be a multiple of {coder.factor}")
    task = {
        **asdict(chosen),
        "source": images.digest(),
        "autoencoder": coder.digest,
        "scaling": coder.scaling,
    }
    if (folder / FACTS).is_file():
        _same(json.loads((folder / FACTS).read_text())["task"], task, folder)
        return folder
    _begin(folder, task, images, coder, chosen)
    if processes > 1:
        _in_processes(processes, source, out, autoencoder, batch, device, chosen, report)
    else:
        _encode_shards(images, folder, coder, chosen, batch, report)
    _finish(folder, task, images, coder, chosen)
    return folder


def _same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for key, value in now.items():
        if before.get(key) != value:
            raise UserError(
                f"out={folder}: was begun with {key}={before.get(key)}, not {value}; choose "
                "another folder, or remove it"
            )


def _begin(
    folder: Path, task: dict[str, Any], images: ImageSource, coder: Autoencoder, chosen: Preparation
) -> None:
    """Claim the folder, and see that there is room."""
    begun = folder / UNFINISHED
    if begun.is_file():
        _same(json.loads(begun.read_text()), task, folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"out={folder}: holds other files; choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    side = chosen.size // coder.factor
    numbers = coder.channels * side**2 * (2 if chosen.kind == "mean-std" else 1)
    needed = len(images) * numbers * (2 if chosen.flip else 1) * np.dtype(chosen.dtype).itemsize
    there = sum(p.stat().st_size for p in folder.glob("shard-*.npy"))
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        raise UserError(
            f"out={folder}: {needed / 1e9:.1f} GB of latents, {free / 1e9:.1f} GB free; choose "
            "another disk, kind=sample, or flip=false"
        )
    _write(begun, json.dumps(task))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


# ------------------------------------------------------------------ encoding


def _encode_shards(
    images: ImageSource,
    folder: Path,
    coder: Autoencoder,
    chosen: Preparation,
    batch: int,
    report: Any,
) -> None:
    """Encode every shard that nobody has or is at."""
    starts = range(0, len(images), chosen.shard)
    for index, start in enumerate(starts):
        record = folder / f"shard-{index:05d}.json"
        if record.is_file():
            continue
        lock = FileLock(folder / f"shard-{index:05d}.lock")
        try:
            with lock.acquire(timeout=0):
                if not record.is_file():
                    stop = min(start + chosen.shard, len(images))
                    _encode_shard(
                        images, range(start, stop), index, folder, coder, chosen, batch, report
                    )
        except Timeout:  # Another process is at it.
            continue


def _encode_shard(
    images: ImageSource,
    rows: range,
    index: int,
    folder: Path,
    coder: Autoencoder,
    chosen: Preparation,
    batch: int,
    report: Any,
) -> None:
    parts: list[np.ndarray] = []
    labels: list[int] = []
    skipped: list[str] = []
    with ThreadPoolExecutor(DECODERS) as pool:
        groups = [range(i, min(i + batch, rows.stop)) for i in range(rows.start, rows.stop, batch)]
        ahead = [pool.map(lambda i: _pixels(images, i, chosen), g) for g in groups[:2]]
        for g, group in enumerate(groups):
            if g + 2 < len(groups):
                ahead.append(pool.map(lambda i: _pixels(images, i, chosen), groups[g + 2]))
            found = list(ahead.pop(0))
            kept = [i for i, pixels in zip(group, found, strict=True) if pixels is not None]
            skipped += [images.names[i] for i in group if i not in kept]
            labels += [images.labels[i] for i in kept]
            pixels = [p for p in found if p is not None]
            if pixels:
                parts.append(_encode(np.stack(pixels), kept, coder, chosen))
            report(group.stop, len(images), images.names[group.start].partition("/")[0])
    latents = np.concatenate(parts) if parts else np.empty((0,))
    names = shard_names(index)
    digests = []
    for name, array in zip(names, (latents, np.array(labels, np.int64)), strict=True):
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            np.save(file, array)
        with temporary.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        os.replace(temporary, folder / name)
    record = {"rows": len(labels), "sha256": digests, "skipped": skipped}
    _write(folder / f"shard-{index:05d}.json", json.dumps(record))


def _pixels(images: ImageSource, i: int, chosen: Preparation) -> np.ndarray | None:
    """Cropped pixels ``(size, size, 3)`` uint8; None for a damaged image that may be skipped."""
    try:
        return np.asarray(centre_crop(decode(images.read(i)), chosen.size))
    except (OSError, ValueError, SyntaxError) as error:
        if chosen.skip_corrupt:
            return None
        raise UserError(
            f"{images.names[i]}: cannot be decoded ({error}); mend it, or leave such images out "
            "with skip_corrupt=true"
        ) from error


def _encode(
    pixels: np.ndarray, rows: list[int], coder: Autoencoder, chosen: Preparation
) -> np.ndarray:
    """Latents ``(b, views, c, h, w)`` of images ``(b, size, size, 3)``."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    views = [x, x.flip(-1)] if chosen.flip else [x]
    found = []
    for view, images in enumerate(views):
        mean, std = coder.encode(images)
        if chosen.kind == "sample":
            random = SampleRandom(chosen.seed, rows)
            noise = random.normal(view, mean.shape[1:], stream="latents").to(mean)
            found.append(mean + std * noise)
        else:
            found.append(torch.cat([mean, std], dim=1))
    return torch.stack(found, 1).cpu().numpy().astype(chosen.dtype)


# ------------------------------------------------------------------ processes


def _worker(
    rank: int, source: str, out: str, autoencoder: str, batch: int, device: str, settings: dict
) -> None:
    chosen = Preparation(**settings)
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    torch.set_num_threads(1)
    try:
        images = open_source(Path(source).expanduser(), chosen.classes)
        coder = Autoencoder.load(autoencoder, device)
        _encode_shards(images, Path(out), coder, chosen, batch, lambda done, total, text: None)
    except UserError as error:
        _write(Path(out) / f".error-{rank}.txt", str(error))
        raise SystemExit(2) from error


def _in_processes(
    processes: int,
    source: str,
    out: str,
    autoencoder: str,
    batch: int,
    device: str,
    chosen: Preparation,
    report: Any,
) -> None:
    context = torch.multiprocessing.get_context("spawn")
    arguments = (source, out, autoencoder, batch, device, asdict(chosen))
    running = [
        context.Process(target=_worker, args=(rank, *arguments), daemon=True)
        for rank in range(processes)
    ]
    for process in running:
        process.start()
    folder = Path(out)
    total = len(open_source(Path(source).expanduser(), chosen.classes))
    try:
        while any(p.is_alive() for p in running):
            time.sleep(0.2)
            done = len(list(folder.glob("shard-*.json"))) * chosen.shard
            report(min(done, total), total, f"{processes} processes")
            if any(p.exitcode for p in running):
                break
    finally:
        for process in running:
            if process.is_alive() and any(p.exitcode for p in running):
                process.terminate()
            process.join()
    for path in folder.glob(".error-*.txt"):
        words = path.read_text()
        path.unlink()
        raise UserError(words)
    if any(p.exitcode for p in running):
        raise RuntimeError("a process of prepare ended without a word; out of memory?")


def _finish(
    folder: Path, task: dict[str, Any], images: ImageSource, coder: Autoencoder, chosen: Preparation
) -> None:
    """Write ``latents.json``, which makes the folder whole."""
    records = [
        json.loads((folder / f"shard-{i:05d}.json").read_text())
        for i in range(-(-len(images) // chosen.shard))
    ]
    side = chosen.size // coder.factor
    labels = np.concatenate([np.load(folder / shard_names(i)[1]) for i in range(len(records))])
    facts: dict[str, Any] = {
        "format": FORMAT,
        "kind": chosen.kind,
        "dtype": chosen.dtype,
        "shape": [coder.channels, side, side],
        "flip": chosen.flip,
        "size": chosen.size,
        "crop": "centre: halved by boxes, bicubic",
        "classes": chosen.classes,
        "class_names": images.classes,
        "count": int(sum(r["rows"] for r in records)),
        "class_counts": np.bincount(labels, minlength=chosen.classes).tolist(),
        "scaling": coder.scaling,
        "autoencoder": coder.digest,
        "shards": [{"rows": r["rows"], "sha256": r["sha256"]} for r in records],
        "skipped": [name for r in records for name in r["skipped"]],
        "task": task,
    }
    facts["digest"] = content_digest(facts)
    _write(folder / FACTS, json.dumps(facts, indent=1))
    for path in [*folder.glob("shard-*.lock"), *folder.glob("shard-*.json"), folder / UNFINISHED]:
        path.unlink(missing_ok=True)
