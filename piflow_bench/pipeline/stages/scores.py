"""Numbers of samples one by one: against the teacher's of the same noise, and LPIPS in a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from piflow_bench.contracts.condition import Prompts
from piflow_bench.contracts.data import Dataset
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.artifacts import mean_score, score
from piflow_bench.pipeline.labels import Source, design_of, labels_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task, left_out

if TYPE_CHECKING:
    from piflow_bench.contracts.space import Space
    from piflow_bench.evaluation.metrics.lpips import Lpips

IN_MODEL_SPACE = "flow_map_error"
"""The one that looks at samples as the model has them; the others look at pictures."""
WITH_PROMPTS = ("clip_score", "hpsv2", "hpsv2_quickgelu", "vqascore")
BY_SAMPLE = (
    IN_MODEL_SPACE, "teacher_mse", "teacher_psnr", "teacher_lpips", "lpips_within", *WITH_PROMPTS,
)  # fmt: skip
"""Metrics of samples one by one that runs measure."""


@dataclass(frozen=True, kw_only=True)
class ScoreSamples(Task):
    """Metrics that look at every sample by itself, or beside those of its class."""

    kind = "scores"
    reads = ("samples", "converged")
    networks = True

    dataset: Identity
    space: Identity
    metrics: Sequence[str]
    versions: Mapping[str, Any]
    """What decides each metric."""
    lpips: str | None
    """What decides the numbers of LPIPS, where a metric is of it."""
    labels: Source
    scorers: Mapping[str, Identity] | None = left_out(None)
    """What decides the networks of metrics of pictures with prompts."""
    clip_scale: str = left_out("cosine")

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.evaluation.features import evaluate_with_replicates
        from piflow_bench.evaluation.inputs import Extras

        x = artifacts.samples(inputs["samples"])
        dataset = runtime.dataset()
        labels = labels_of(dataset, self.labels, len(x))
        design = design_of(self.labels, labels, len(x))
        found = []
        target = artifacts.samples(inputs["converged"])[: len(x)] if "converged" in inputs else None
        if IN_MODEL_SPACE in self.metrics:
            assert target is not None
            apart = np.square(x.astype(np.float64) - target).reshape(len(x), -1).mean(1)
            found.append(mean_score(IN_MODEL_SPACE, apart, design.blocks()))
        asked = [name for name in self.metrics if name != IN_MODEL_SPACE]
        if asked:
            lpips = runtime.lpips() if self.lpips else None
            scores = (
                {} if target is None else _paired(asked, dataset.space, x, target, lpips, report)
            )
            scores |= self._with_prompts(dataset, x, runtime, report)
            groups = None
            if "lpips_within" in asked:
                assert lpips is not None and labels is not None
                groups = _groups(dataset.space, x, labels, lpips, report)
            extras = Extras(labels=labels, scores=scores, pair_distances=groups, design=design)
            # These metrics look at no features: what stands for them says how many samples are.
            rows = np.zeros((len(x), 1), np.float32)
            values = evaluate_with_replicates(
                rows, None, asked, extras=extras, clip_scale=self.clip_scale
            )
            found += [score(v.metric, v.interval, v.n, v.replicates, v.estimator) for v in values]
        artifacts.write_scores(folder, found)

    def _with_prompts(
        self, dataset: Dataset, x: np.ndarray, runtime: Runtime, report: Report
    ) -> dict[str, np.ndarray]:
        """Scores ``(n,)`` of the metrics that look at a sample beside its prompt."""
        if not self.scorers:
            return {}
        assert self.labels is not None
        condition = dataset.conditions(self.labels["seed"], range(len(x)))
        assert isinstance(condition, Prompts)
        prompts = condition.texts()
        networks = {name: runtime.scorer(name) for name in self.scorers}
        found: dict[str, list[np.ndarray]] = {name: [] for name in networks}
        for i, seen in _pictures(dataset.space, x):
            for name, network in networks.items():
                found[name].append(network.score(seen, prompts[i : i + len(seen)]))
            report(i / len(x), "pictures with their prompts")
        return {name: np.concatenate(rows) for name, rows in found.items()}


def _pictures(space: Space, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Pictures ``(b, h, w, 3)`` uint8 of samples, from which index on."""
    assert space.pictures is not None
    for i in range(0, len(x), space.chunk):
        seen = space.pictures(torch.from_numpy(np.array(x[i : i + space.chunk])))
        yield i, np.repeat(seen, 3, axis=3) if seen.shape[3] == 1 else seen


def _paired(
    metrics: Sequence[str],
    space: Space,
    x: np.ndarray,
    target: np.ndarray,
    lpips: Lpips | None,
    report: Report,
) -> dict[str, np.ndarray]:
    """Scores ``(n,)`` of the metrics of a sample beside the teacher's."""
    from piflow_bench.evaluation.metrics.agreement import psnr, squared_errors

    errors, distances = [], []
    for (i, ours), (_, theirs) in zip(_pictures(space, x), _pictures(space, target), strict=True):
        errors.append(squared_errors(ours, theirs))
        if "teacher_lpips" in metrics:
            assert lpips is not None
            distances.append(lpips.distances(ours, theirs))
        report(0.5 * i / len(x), "beside the teacher's")
    found = {"teacher_mse": np.concatenate(errors)}
    found["teacher_psnr"] = psnr(found["teacher_mse"])
    if distances:
        found["teacher_lpips"] = np.concatenate(distances)
    return found


def _groups(
    space: Space, x: np.ndarray, labels: np.ndarray, lpips: Lpips, report: Report
) -> list[Any]:
    """LPIPS between all samples of each class."""
    from piflow_bench.evaluation.metrics.diversity import PairDistances

    seen = np.concatenate([part for _, part in _pictures(space, x)])
    found = []
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        found.append(PairDistances(rows, lpips.pair_distances(seen[rows])))
        report(0.5 + 0.5 * sum(len(g.rows) for g in found) / len(x), "pairs of a class")
    return found
