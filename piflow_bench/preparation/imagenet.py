"""``prepare imagenet``: images to latents on disk, once, so that training never sees a JPEG.

Every shard is written whole or not at all, so a killed run goes on where it was and ends with the
same bytes. Several processes take shards as they come, each with a GPU of its own where there are
several; so do several calls on one folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from piflow_bench.errors import UserError
from piflow_bench.evaluation.protocols import names
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation.latents import FACTS, FORMAT, KINDS, content_digest, shard_names
from piflow_bench.preparation.pixels import centre_crop, decode
from piflow_bench.preparation.sources.opening import open_source
from piflow_bench.preparation.sources.source import ImageSource, ReadError
from piflow_bench.preparation.sources.spool import is_scattered, spooled, spooled_bytes
from piflow_bench.randomness import SampleRandom
from piflow_bench.settings import NPZ, build_dataclass, setting
from piflow_bench.threads import cores

UNFINISHED, SPOOL, REFERENCE = "unfinished.json", ".images.bin", "reference.json"
SPOOL_LOCK = "images.lock"
WRITER = 2
"""Version of what writes the folder; raised when other bytes would come out."""
CROP = "centre: halved by boxes, bicubic"
AHEAD = 2
"""Batches that are decoded ahead of the encoder."""
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Preparation:
    """What decides the latents, beside the images and the autoencoder; and what is made of them."""

    size: int = setting(256, least=1)
    """Side of the cropped images, pixels."""
    kind: str = setting("mean-std", choices=KINDS)
    flip: bool = True
    """Whether mirror images are encoded too."""
    dtype: str = setting("float16", choices=("float16", "float32"))
    """Of what is stored."""
    classes: int = setting(1000, least=1)
    shard: int = setting(10000, least=1)
    """Images in a shard."""
    seed: int = setting(0, least=0)
    """Of the encoder's noise, where samples are stored."""
    skip_corrupt: bool = False
    """Whether images that cannot be decoded are left out."""
    partial: bool = False
    """Whether some of ImageNet's images may be absent."""
    reference: str | None = setting(None, **NPZ)
    """An npz file for the cropped images' statistics under ``protocol``."""
    protocol: str | None = setting(None, choices=names)

    def __post_init__(self) -> None:
        if (self.reference is None) != (self.protocol is None):
            raise UserError("reference=FILE.npz and protocol=NAME are given together or not at all")

    def deciding(self) -> dict[str, Any]:
        """The settings that decide a shard's bytes.

        Leaving out corrupt images does not: without any, the bytes are the same, and with one,
        there is no shard unless it was allowed.
        """
        others = ("skip_corrupt", "partial", "reference", "protocol")
        return {k: v for k, v in asdict(self).items() if k not in others}


@dataclass(frozen=True)
class _Job:
    """Images to be encoded into a folder, and what it takes; ``coder`` where it is loaded."""

    images: ImageSource
    folder: Path
    chosen: Preparation
    batch: int
    threads: int
    """That decode images ahead of the encoder."""
    coder: Autoencoder | None = None

    def shards(self) -> list[range]:
        """Rows of every shard."""
        total, size = len(self.images), self.chosen.shard
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    def record(self, index: int) -> Path:
        """The file that says that a shard is whole."""
        return self.folder / f"shard-{index:05d}.json"

    def is_done(self, index: int) -> bool:
        """Whether a shard is whole; in a finished folder all are."""
        return self.record(index).is_file() or (self.folder / FACTS).is_file()


def prepare(
    source: str,
    out: str,
    autoencoder: str = "hf://stabilityai/sd-vae-ft-ema",
    batch: int = 32,
    device: str | None = None,
    processes: int = 1,
    report: Callable[[int, int, str], None] = lambda done, total, text: None,
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
    chosen = build_dataclass(Preparation, settings, "")
    folder = Path(out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: no GPU is available here; use device=cpu")
    images = open_source(Path(source).expanduser(), chosen.classes, chosen.partial)
    coder = Autoencoder.load(autoencoder, device)
    if chosen.size % coder.factor:
        raise UserError(f"size={chosen.size}: must be a multiple of {coder.factor}")
    extractor = _open_reference(chosen, folder, device)
    task = {
        **chosen.deciding(),
        "source": images.digest(),
        "autoencoder": coder.digest,
        "scaling": coder.scaling,
        "shift": coder.shift,
        "writer": WRITER,
    }
    threads = max(cores() // processes, 2)
    job = _Job(images, folder, chosen, batch, threads, coder)
    with _room(folder):
        if (folder / FACTS).is_file():
            facts = json.loads((folder / FACTS).read_text())
            _same(facts["task"], task, folder)
            _check_skipped(facts["skipped"], chosen, folder)
        else:
            _begin(job, task)
            job = _with_spool(job, report)
            if processes > 1:
                _in_processes(job, autoencoder, device, processes, report)
            else:
                _encode_shards(job, report)
            _finish(job, task)
        if extractor is not None:
            _write_reference(job, extractor, report)
        for name in (SPOOL, Path(SPOOL).with_suffix(".npy"), SPOOL_LOCK):
            (folder / name).unlink(missing_ok=True)
    return folder


@contextmanager
def _room(folder: Path) -> Iterator[None]:
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


def _same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    for key, value in now.items():
        if before.get(key) != value:
            raise UserError(
                f"out={folder}: was begun with {key}={before.get(key)}, not {value}; choose "
                "another folder, or remove it"
            )


def _check_skipped(skipped: list[str], chosen: Preparation, folder: Path) -> None:
    if skipped and not chosen.skip_corrupt:
        raise UserError(
            f"out={folder}: was begun with skip_corrupt=true and lacks {skipped[0]}; set "
            "skip_corrupt=true, or choose another folder"
        )


def _begin(job: _Job, task: dict[str, Any]) -> None:
    """Claim the folder, and see that there is room."""
    folder, chosen, coder = job.folder, job.chosen, job.coder
    assert coder is not None
    begun = folder / UNFINISHED
    if begun.is_file():
        _same(json.loads(begun.read_text()), task, folder)
        records = [json.loads(r.read_text()) for r in sorted(folder.glob("shard-*.json"))]
        _check_skipped([name for r in records for name in r["skipped"]], chosen, folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"out={folder}: holds other files; choose an empty folder")
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
    folder.mkdir(parents=True, exist_ok=True)
    _write(begun, json.dumps(task))


def _with_spool(job: _Job, report: Callable[[int, int, str], None]) -> _Job:
    """The job, its images where each can be read alone."""
    if not is_scattered(job.images):
        return job
    with FileLock(job.folder / SPOOL_LOCK):
        total = len(job.images)
        told = lambda done: report(done, total, "copied, in the parquet files' order")  # noqa: E731
        return replace(job, images=spooled(job.images, job.folder / SPOOL, told))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


# ------------------------------------------------------------------ encoding


def _encode_shards(job: _Job, report: Callable[[int, int, str], None]) -> None:
    """Encode every shard that nobody has, then wait for those that others are at."""
    shards, total = job.shards(), len(job.images)
    done = sum(len(rows) for i, rows in enumerate(shards) if job.is_done(i))
    report(done, total, "")

    def told(images: int, text: str) -> None:
        nonlocal done
        done += images
        report(min(done, total), total, text)

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


def _encode_shard(job: _Job, rows: range, index: int, told: Callable[[int, str], None]) -> None:
    images, chosen, coder, folder = job.images, job.chosen, job.coder, job.folder
    assert coder is not None
    side = chosen.size // coder.factor
    numbers = coder.channels * (2 if chosen.kind == "mean-std" else 1)
    views = 2 if chosen.flip else 1
    latents = np.empty((len(rows), views, numbers, side, side), chosen.dtype)
    labels: list[int] = []
    skipped: list[str] = []
    for group, found in _decoded(job, rows):
        kept = [i for i, pixels in zip(group, found, strict=True) if pixels is not None]
        skipped += [images.names[i] for i in group if i not in kept]
        if kept:
            pixels = np.stack([p for p in found if p is not None])
            start = len(labels)
            labels += [images.labels[i] for i in kept]
            latents[start : len(labels)] = _encode(pixels, kept, coder, chosen)
        told(len(group), images.names[group.start].partition("/")[0])
    for stale in folder.glob(f".shard-{index:05d}.*.tmp"):  # Of a process that was killed.
        stale.unlink()
    digests = []
    arrays = latents[: len(labels)], np.array(labels, np.int64)
    for name, array in zip(shard_names(index), arrays, strict=True):
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())  # The record below must not outlive what it vouches for.
        with temporary.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        os.replace(temporary, folder / name)
    record = {"rows": len(labels), "sha256": digests, "skipped": skipped}
    _write(job.record(index), json.dumps(record))


def _decoded(job: _Job, rows: range) -> Iterator[tuple[range, list[np.ndarray | None]]]:
    """Batches of rows with their cropped pixels, decoded by threads ahead of their use."""

    def pixels(i: int) -> np.ndarray | None:
        return _pixels(job.images, i, job.chosen)

    edges = range(rows.start, rows.stop, job.batch)
    groups = [range(start, min(start + job.batch, rows.stop)) for start in edges]
    with ThreadPoolExecutor(job.threads) as pool:
        ahead = [pool.map(pixels, group) for group in groups[:AHEAD]]
        for g, group in enumerate(groups):
            if g + AHEAD < len(groups):
                ahead.append(pool.map(pixels, groups[g + AHEAD]))
            yield group, list(ahead.pop(0))


def _pixels(images: ImageSource, i: int, chosen: Preparation) -> np.ndarray | None:
    """Cropped pixels ``(size, size, 3)`` uint8; None for a damaged image that may be skipped."""
    data = images.read(i)  # What fails here is the source, never to be skipped.
    try:
        return np.array(centre_crop(decode(data), chosen.size))
    except (OSError, ValueError, SyntaxError) as error:
        if chosen.skip_corrupt:
            return None
        # Pillow's words may name an object in memory.
        words = str(error).partition(" <")[0]
        raise UserError(
            f"{images.names[i]}: cannot be decoded ({words}); mend it, or leave such images out "
            "with skip_corrupt=true: whole shards are kept"
        ) from error


def _encode(
    pixels: np.ndarray, rows: list[int], coder: Autoencoder, chosen: Preparation
) -> np.ndarray:
    """Latents ``(b, views, c, h, w)`` of images ``(b, size, size, 3)``."""
    # Bytes travel to a GPU, not floats.
    x = torch.from_numpy(pixels).to(coder.device).permute(0, 3, 1, 2).float() / 127.5 - 1
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


def _finish(job: _Job, task: dict[str, Any]) -> None:
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
            _write(folder / FACTS, json.dumps(facts, indent=1))
    leftovers = (".*.tmp", "shard-*.json", "*.lock", UNFINISHED)
    for path in [p for pattern in leftovers for p in folder.glob(pattern)]:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------ processes


def _worker(
    rank: int, job: _Job, autoencoder: str, device: str, threads: int, tell: Connection
) -> None:
    """One of several processes; tells of its images, and of what the user can mend."""
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    torch.set_num_threads(threads)
    before: int | None = None  # What was there at the start is the parent's to tell.

    def report(done: int, total: int, text: str) -> None:
        nonlocal before
        tell.send((0 if before is None else done - before, text))
        before = done

    try:
        with _room(job.folder):
            _encode_shards(replace(job, coder=Autoencoder.load(autoencoder, device)), report)
    except UserError as error:
        tell.send((None, str(error)))
        raise SystemExit(2) from error
    except (KeyboardInterrupt, BrokenPipeError):  # The parent is gone, and with it the call.
        raise SystemExit(130) from None


def _in_processes(
    job: _Job,
    autoencoder: str,
    device: str,
    processes: int,
    report: Callable[[int, int, str], None],
) -> None:
    """Encode all shards in processes of their own; the first one's trouble ends them all."""
    context = multiprocessing.get_context("spawn")  # A GPU does not survive a fork.
    total = len(job.images)
    done = sum(len(rows) for i, rows in enumerate(job.shards()) if job.is_done(i))
    report(done, total, "")
    threads = max(torch.get_num_threads() // processes, 1)
    bare = replace(job, coder=None)
    running: dict[Any, Any] = {}  # A pipe to hear from, and its process.
    try:
        for rank in range(processes):
            hear, tell = context.Pipe(duplex=False)
            arguments = (rank, bare, autoencoder, device, threads, tell)
            running[hear] = context.Process(target=_worker, args=arguments, daemon=True)
            running[hear].start()
            tell.close()  # So that its end is heard when the process ends.
        while running:
            ready: list[Any] = wait(list(running))
            for end in ready:
                try:
                    images, text = end.recv()
                except EOFError:
                    process = running.pop(end)
                    process.join()
                    if process.exitcode:
                        raise RuntimeError(
                            f"a process ended with code {process.exitcode}; -9 is the kernel's, "
                            "out of memory: fewer processes, or a smaller batch"
                        ) from None
                    continue
                if images is None:
                    raise UserError(text)
                done = min(done + images, total)
                report(done, total, f"{processes} processes")
    finally:
        for process in running.values():
            process.terminate()
            process.join()


# ------------------------------------------------------------------ reference statistics


def _reference_key(job: _Job, extractor: Any) -> str:
    parts = [job.images.digest(), job.chosen.size, CROP, extractor.key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _open_reference(chosen: Preparation, folder: Path, device: str) -> Any:
    """The protocol's extractor, before any work: its weights may be missing. None if not asked."""
    if chosen.reference is None or chosen.protocol is None:
        return None
    from piflow_bench.evaluation.extractors.extractor import get_extractor
    from piflow_bench.evaluation.protocols import load_protocol

    path, record = Path(chosen.reference), folder / REFERENCE
    if path.exists():
        known = json.loads(record.read_text()) if record.is_file() else {}
        with path.open("rb") as file:
            if known.get("sha256") != hashlib.file_digest(file, "sha256").hexdigest():
                raise UserError(
                    f"reference={path}: exists, and was not made from {folder}; remove it, or "
                    "name another file"
                )
    protocol = load_protocol(chosen.protocol)
    return get_extractor(protocol.extractor, None, device, protocol.precision)


def _write_reference(job: _Job, extractor: Any, report: Callable[[int, int, str], None]) -> None:
    """Statistics of the cropped images, shard by shard: features of all would not fit in memory."""
    from piflow_bench.contracts.extractor import FEATURES, SPATIAL
    from piflow_bench.evaluation.moments import Moments
    from piflow_bench.evaluation.references.statistics import Statistics, save_statistics

    assert job.chosen.reference is not None
    path, record = Path(job.chosen.reference), job.folder / REFERENCE
    key = _reference_key(job, extractor)
    if path.exists() and record.is_file() and json.loads(record.read_text())["key"] == key:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    job = _with_spool(job, report)
    partial = path.with_name(f"{path.name}.partial.npz")
    moments, first = _read_partial(partial, key)
    for index, rows in enumerate(job.shards()):
        if index < first:
            continue
        parts: dict[str, list[np.ndarray]] = {}
        small = replace(job, batch=min(job.batch, _extractor_batch(extractor)))
        for group, found in _decoded(small, rows):
            pixels = [p for p in found if p is not None]
            outputs = extractor(np.stack(pixels)) if pixels else {}
            for name in set(outputs) & {FEATURES, SPATIAL}:
                parts.setdefault(name, []).append(outputs[name])
            report(group.stop, len(job.images), "features for the reference")
        for name, arrays in parts.items():
            here = Moments.from_features(np.concatenate(arrays))
            moments[name] = moments[name].merge(here) if name in moments else here
        _write_partial(partial, key, index + 1, moments)
    pooled = moments[FEATURES]
    identity = extractor.identity
    save_statistics(path, Statistics(str(path), pooled, moments.get(SPATIAL), identity, pooled.n))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    _write(record, json.dumps({"file": path.name, "sha256": sha256, "key": key}))
    partial.unlink()


def _extractor_batch(extractor: Any) -> int:
    from piflow_bench.evaluation.extractors.extractor import usual_batch

    return usual_batch(extractor.device)


def _write_partial(path: Path, key: str, shards: int, moments: dict[str, Any]) -> None:
    """Moments of the first shards, for a call that goes on."""
    arrays = {"key": np.asarray(key), "shards": np.asarray(shards)}
    for name, m in moments.items():
        arrays |= {f"{name}.n": np.asarray(m.n), f"{name}.mean": m.mean, f"{name}.s": m.scatter}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def _read_partial(path: Path, key: str) -> tuple[dict[str, Any], int]:
    """Moments by name, and of how many shards they are."""
    from piflow_bench.evaluation.moments import Moments

    if not path.is_file():
        return {}, 0
    with np.load(path, allow_pickle=False) as arrays:
        if str(arrays["key"]) != key:
            return {}, 0
        names = [k.removesuffix(".mean") for k in arrays.files if k.endswith(".mean")]
        moments = {
            n: Moments(int(arrays[f"{n}.n"]), arrays[f"{n}.mean"], arrays[f"{n}.s"]) for n in names
        }
        return moments, int(arrays["shards"])
