"""Statistics of the cropped images, as a protocol's reference."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.files.atomic import write_arrays, write_json
from piflow_bench.files.digests import file_digest
from piflow_bench.preparation.encode import decoded
from piflow_bench.preparation.job import CROP, REFERENCE, Job, Preparation, Report, with_spool


def _reference_key(job: Job, extractor: Any) -> str:
    parts = [job.images.digest(), job.chosen.size, CROP, extractor.key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def open_reference(chosen: Preparation, folder: Path, device: str) -> Any:
    """The protocol's extractor, before any work: its weights may be missing. None if not asked."""
    if chosen.reference is None or chosen.protocol is None:
        return None
    from piflow_bench.evaluation.extractors.extractor import get_extractor
    from piflow_bench.evaluation.protocols import load_protocol

    path, record = Path(chosen.reference), folder / REFERENCE
    if path.exists():
        known = json.loads(record.read_text()) if record.is_file() else {}
        if known.get("sha256") != file_digest(path):
            raise UserError(
                f"reference={path}: exists, and was not made from {folder}; remove it, or name "
                "another file"
            )
    protocol = load_protocol(chosen.protocol)
    return get_extractor(protocol.extractor, None, device, protocol.precision)


def write_reference(job: Job, extractor: Any, report: Report) -> None:
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
    job = with_spool(job, report)
    partial = path.with_name(f"{path.name}.partial.npz")
    moments, first = _read_partial(partial, key)
    for index, rows in enumerate(job.shards()):
        if index < first:
            continue
        parts: dict[str, list[np.ndarray]] = {}
        small = replace(job, batch=min(job.batch, _extractor_batch(extractor)))
        for group, found in decoded(small, rows):
            pixels = [p for p in found if p is not None]
            outputs = extractor(np.stack(pixels)) if pixels else {}
            for name in set(outputs) & {FEATURES, SPATIAL}:
                parts.setdefault(name, []).append(outputs[name])
            report("features of the reference", group.stop, len(job.images))
        for name, arrays in parts.items():
            here = Moments.from_features(np.concatenate(arrays))
            moments[name] = moments[name].merge(here) if name in moments else here
        _write_partial(partial, key, index + 1, moments)
    pooled = moments[FEATURES]
    identity = extractor.identity
    save_statistics(path, Statistics(str(path), pooled, moments.get(SPATIAL), identity, pooled.n))
    write_json(record, {"file": path.name, "sha256": file_digest(path), "key": key})
    partial.unlink()


def _extractor_batch(extractor: Any) -> int:
    from piflow_bench.evaluation.extractors.extractor import usual_batch

    return usual_batch(extractor.device)


def _write_partial(path: Path, key: str, shards: int, moments: dict[str, Any]) -> None:
    """Moments of the first shards, for a call that goes on."""
    arrays = {"key": np.asarray(key), "shards": np.asarray(shards)}
    for name, m in moments.items():
        arrays |= {f"{name}.n": np.asarray(m.n), f"{name}.mean": m.mean, f"{name}.s": m.scatter}
    write_arrays(path, arrays)


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
