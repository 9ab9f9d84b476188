"""Scores of samples one by one, against the teacher or a prompt, and LPIPS within classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from piflow_bench.evaluation.cache import Arrays, Progress, in_shards, shard_folder
from piflow_bench.evaluation.metrics.agreement import cosines, psnr, squared_errors
from piflow_bench.evaluation.metrics.diversity import PairDistances
from piflow_bench.evaluation.pictures.images import Images, printable

if TYPE_CHECKING:
    from piflow_bench.evaluation.metrics.lpips import Lpips
    from piflow_bench.evaluation.scorers import Scorer

PIXELS = ("teacher_mse", "teacher_psnr")
SAME: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "teacher_mse": lambda scores: scores == 0,
    "teacher_lpips": lambda scores: scores == 0,
    "teacher_cosine": lambda scores: scores > 1 - 1e-6,
}
"""Where a score is that of two equal images; rounding may move a cosine."""


def teacher_scores(
    metrics: Sequence[str],
    samples: Images,
    teacher: Images,
    features: Callable[[], tuple[np.ndarray, np.ndarray]],
    lpips: Lpips | None,
    cache: Path | None,
    batch: int,
    report: Progress,
) -> dict[str, np.ndarray]:
    """Per-sample scores ``(n,)`` of the asked ``teacher_*`` metrics.

    ``features()`` gives both sets' features ``(n, d)``; ``lpips`` is needed by teacher_lpips.
    """
    found: dict[str, np.ndarray] = {}
    pair, count = (samples.digest(), teacher.digest()), len(samples)

    def paired(score: Callable[[np.ndarray, np.ndarray], np.ndarray], name: str) -> np.ndarray:
        def shard(first: int, last: int) -> Arrays:
            parts = []
            for start in range(first, last, batch):
                stop = min(start + batch, last)
                parts.append(score(samples.read(start, stop), teacher.read(start, stop)))
                report(stop, count)
            return {"scores": np.concatenate(parts)}

        folder = shard_folder(cache, *pair, name)
        label = f"{samples.path} and {teacher.path}: {name}"
        return in_shards(folder, count, shard, label=label)["scores"]

    if set(PIXELS) & set(metrics):
        found["teacher_mse"] = paired(squared_errors, "squared errors")
        found["teacher_psnr"] = psnr(found["teacher_mse"])
    if "teacher_lpips" in metrics:
        assert lpips is not None
        found["teacher_lpips"] = paired(lpips.distances, lpips.identity)
    if "teacher_cosine" in metrics:
        found["teacher_cosine"] = cosines(*features())
    return found


def copies_of_teacher(
    scores: Mapping[str, np.ndarray], samples: Images, teacher: Images, batch: int
) -> int:
    """How many samples equal the teacher's image: looked at are those that scored as if."""
    alike = np.zeros(len(samples), bool)
    for name, same in SAME.items():
        if name in scores:
            alike |= same(scores[name])
    rows, equal = np.flatnonzero(alike), 0
    ours, theirs = samples.take(rows), teacher.take(rows)
    for start in range(0, len(rows), batch):
        stop = min(start + batch, len(rows))
        pairs = zip(ours.read(start, stop), theirs.read(start, stop), strict=True)
        equal += sum(np.array_equal(*pair) for pair in pairs)
    return equal


def prompt_scores(
    scorer: Scorer,
    samples: Images,
    prompts: Sequence[str],
    cache: Path | None,
    batch: int,
    report: Progress,
) -> np.ndarray:
    """Scores ``(n,)`` of a network of pictures with prompts; finished ones are kept."""
    told = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
    identity = dict(scorer.identity)
    folder = shard_folder(cache, samples.digest(), told, identity)

    def compute(first: int, last: int) -> Arrays:
        parts = []
        for i in range(first, last, batch):
            seen = samples.read(i, min(i + batch, last))
            parts.append(scorer.score(seen, prompts[i : i + len(seen)]))
        return {"scores": np.concatenate(parts)}

    label = f"{samples.path}: {identity['rule']}"
    return in_shards(folder, len(samples), compute, report, label)["scores"]


def lpips_groups(
    samples: Images, labels: np.ndarray, lpips: Lpips, cache: Path | None, report: Progress
) -> list[PairDistances]:
    """LPIPS between all samples of each class of ``labels`` ``(n,)``; finished classes are kept."""
    groups, done = [], 0
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        images = samples.take(rows)
        folder = shard_folder(cache, images.digest(), lpips.identity)

        def compute(first: int, last: int, images: Images = images) -> Arrays:
            return {"distances": lpips.pair_distances(images.read(0, len(images)))[None]}

        label = f"{samples.path}, class {printable(str(name))}: {lpips.identity}"
        found = in_shards(folder, 1, compute, label=label)["distances"][0]
        groups.append(PairDistances(rows, found))
        done += len(rows)
        report(done, len(labels))
    return groups
