"""One set of samples by sample count and by class, under the primary features.

What is found is shown beside the results and never ranked, so it has no intervals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.contracts.data import Dataset
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.labels import classes_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task

IN_A_CLASS = 20
"""Samples of a class, on both sides, from which on it is scored by itself."""
CLASSES = 100
"""Classes that are scored by themselves: the first ones."""
FILE = "breakdown.json"


@dataclass(frozen=True, kw_only=True)
class BreakDown(Task):
    """The Fréchet distance against sample count, and the primary metrics of every class."""

    kind = "breakdown"
    reads = ("generated", "reference")

    dataset: Identity
    space: Identity
    extractor: str
    question: str
    sample_seed: int
    n: int
    metrics: Sequence[str]
    versions: Mapping[str, Any]
    by_size: bool
    settings: Mapping[str, Any]
    reference_seed: int

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        name = self.extractor
        generated = artifacts.features(inputs["generated"], name)[: self.n]
        reference = artifacts.output(inputs["reference"], name)
        rows: list[dict[str, Any]] = []
        if self.by_size:
            report(0.0, "Fréchet distance by sample count")
            moments = artifacts.moments_of(inputs["reference"], name)
            rows += _by_size(generated, reference, moments)
        if reference is not None:
            dataset = runtime.dataset()
            own = classes_of(dataset.conditions(self.sample_seed, range(len(generated))))
            others = self._reference_classes(dataset, len(reference))
            if own is not None and others is not None:
                report(0.5, "classes")
                rows += self._by_class(generated, own, reference, others)
        (folder / FILE).write_text(json.dumps(rows))

    def _reference_classes(self, dataset: Dataset, n: int) -> np.ndarray | None:
        if self.question == "imitation":
            return classes_of(dataset.conditions(self.reference_seed, range(n)))
        if self.question == "data" and dataset.reference is None:
            return classes_of(dataset.test_condition)
        return None

    def _by_class(
        self, generated: np.ndarray, own: np.ndarray, reference: np.ndarray, others: np.ndarray
    ) -> list[dict[str, Any]]:
        from piflow_bench.evaluation.features import evaluate_with_replicates
        from piflow_bench.evaluation.metrics.metric import all_metrics

        known = all_metrics()
        metrics = [
            m for m in dict.fromkeys(self.metrics)
            if set(known[m].needs) <= {"generated", "reference"}
        ]  # fmt: skip
        shared = np.intersect1d(own, others)
        if len(shared) < 2 or not metrics:
            return []
        rows = []
        settings = {**self.settings, "intervals": False}
        for label in shared[:CLASSES]:
            x, y = generated[own == label], reference[others == label]
            if min(len(x), len(y)) < IN_A_CLASS:
                continue
            settings["neighbour_reference"] = None
            for v in evaluate_with_replicates(x, y, metrics, **settings):
                about = {"kind": "class", "group": str(label), "metric": v.metric}
                rows.append({**about, "value": float(v.value), "n": len(x)})
        return rows


def _by_size(
    generated: np.ndarray, reference: np.ndarray | None, moments: Any
) -> list[dict[str, Any]]:
    from piflow_bench.evaluation.metrics.frechet import at_infinity, fd_by_size
    from piflow_bench.evaluation.moments import Moments
    from piflow_bench.evaluation.references.facts import factored

    known = moments or Moments.from_features(np.asarray(reference, np.float64))
    try:
        sizes, values = fd_by_size(np.asarray(generated, np.float64), factored(known))
    except ValueError:  # Too few samples to nest.
        return []
    rows = [
        {"kind": "size", "group": str(size), "metric": "fd", "value": float(value), "n": int(size)}
        for size, value in zip(sizes, values, strict=True)
    ]
    end = {"metric": "fd_infinity", "value": at_infinity(sizes, values), "n": int(sizes[-1])}
    return [*rows, {"kind": "size", "group": "infinity", **end}]
