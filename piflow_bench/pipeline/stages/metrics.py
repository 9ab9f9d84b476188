"""Numbers that rank: metrics of generated against reference features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.contracts.data import Dataset
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.artifacts import Score, mean_score, score
from piflow_bench.pipeline.labels import Source, design_of, labels_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task, left_out
from piflow_bench.pipeline.stages.features import JUDGE

COSINE = "teacher_cosine"
"""Of features, while other metrics that need the teacher's samples look at these."""
MODES = {
    "mode_share": "share",
    "modes_covered": "covered",
    "mode_mass": "mass",
    "mode_tv": "variation",
    "rare_mode_share": "rare",
}
"""Metrics of samples of a known mixture, and the field of each; the last where modes are rare."""
RARE = "rare_mode_share"


@dataclass(frozen=True, kw_only=True)
class Measure(Task):
    """Metrics of one question on one extractor, with delete-block replicates."""

    kind = "metrics"
    reads = ("generated", "reference", "teacher")

    dataset: Identity
    question: str
    extractor: str
    n: int
    metrics: Sequence[str]
    versions: Mapping[str, Any]
    """What decides each metric."""
    settings: Mapping[str, Any]
    accuracy: bool
    """Whether the judge's accuracy is measured, too."""
    modes: bool
    """Whether what is known of a mixture's samples is."""
    labels: Source
    reference_labels: Source
    half: int = left_out(0)
    """1 or 2: of that half of both sides alone, apart from moments that are given."""

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.evaluation.features import evaluate_with_replicates
        from piflow_bench.evaluation.inputs import Extras
        from piflow_bench.evaluation.metrics.metric import all_metrics

        dataset, name = runtime.dataset(), self.extractor
        generated = artifacts.features(inputs["generated"], name)[: self.n]
        reference = artifacts.output(inputs["reference"], name)
        spatial: Any = artifacts.output(inputs["reference"], f"{name}/spatial")
        if spatial is None:
            spatial = artifacts.moments_of(inputs["reference"], f"{name}/spatial")
        moments = artifacts.moments_of(inputs["reference"], name)
        n, m = len(generated), 0 if reference is None else len(reference)
        ours, theirs = self._rows(n, self.labels), self._rows(m, self.reference_labels)
        labels = of(labels_of(dataset, self.labels, n), ours)
        others = of(labels_of(dataset, self.reference_labels, m), theirs)
        if self.half and reference is not None:
            moments = None  # They are of all rows.
        generated, reference = generated[ours], of(reference, theirs)
        n, m = len(generated), 0 if reference is None else len(reference)
        design = design_of(self.labels, labels, n)
        extras = Extras(
            of(artifacts.output(inputs["generated"], f"{name}/logits"), ours),
            labels,
            of(artifacts.output(inputs["generated"], f"{name}/spatial"), ours),
            of(spatial, theirs) if isinstance(spatial, np.ndarray) else spatial,
            self._beside_teacher(inputs, generated),
            design=design,
            reference_design=design_of(self.reference_labels, others, m),
        )
        known = all_metrics()
        # Of a control's samples the classes may be unknown: what needs them has no row there.
        asked = [m for m in self.metrics if labels is not None or "labels" not in known[m].needs]
        report(0.0, f"{self.question} metrics on {name}")
        values = evaluate_with_replicates(
            generated,
            reference,
            asked,
            reference_moments=moments,
            reference_labels=others,
            extras=extras,
            **self.settings,
        )
        found = [
            score(v.metric, v.interval, v.n, v.replicates, v.estimator)
            for v in values
            if np.isfinite(v.value) or not known[v.metric].optional
        ]
        blocks = design.blocks()
        if self.accuracy and labels is not None:
            judged = artifacts.features(inputs["generated"], JUDGE)[ours].argmax(1)
            right = (judged == labels).astype(float)
            found.append(mean_score("class_accuracy", right, blocks))
        if self.modes:
            found += _modes(dataset, generated, blocks)
        artifacts.write_scores(folder, found)

    def _rows(self, n: int, source: Source) -> slice | np.ndarray:
        """Which of ``n`` samples are looked at.

        Halves follow one another where any first samples are as good as all; others, which may be
        sorted by class, are mixed before.
        """
        if not self.half:
            return slice(n)
        follow = source is not None and source["from"] == "conditions"
        order = np.arange(n) if follow else np.random.default_rng(0).permutation(n)
        return order[: n // 2] if self.half == 1 else order[n // 2 :]

    def _beside_teacher(self, inputs: Inputs, generated: np.ndarray) -> dict[str, np.ndarray]:
        """Scores by sample against the teacher's of the same noise, where its features are read."""
        from piflow_bench.evaluation.metrics.agreement import cosines

        if "teacher" not in inputs:
            return {}
        theirs = artifacts.features(inputs["teacher"], self.extractor)[: len(generated)]
        return {COSINE: cosines(generated, theirs)}


def of(values: np.ndarray | None, rows: slice | np.ndarray) -> np.ndarray | None:
    """Those rows, where there are values."""
    return None if values is None else values[rows]


def _modes(dataset: Dataset, points: np.ndarray, blocks: np.ndarray) -> list[Score]:
    from piflow_bench.evaluation.metrics.modes import mode_replicates
    from piflow_bench.evaluation.uncertainty import jackknife_interval

    assert dataset.truth is not None
    modes = dataset.truth.modes
    assert modes is not None
    whole, left = mode_replicates(points, modes.means, modes.std, modes.weights, blocks)
    found = []
    for metric, name in MODES.items():
        if getattr(whole, name) is None:
            continue
        replicates = [float(getattr(part, name)) for part in left]
        interval = jackknife_interval(float(getattr(whole, name)), replicates)
        found.append(score(metric, interval, len(points), replicates, "plug-in"))
    return found


@dataclass(frozen=True, kw_only=True)
class Partition(Task):
    """Real against real at the protocol's sizes: random re-partitions of all real samples."""

    kind = "partition"
    reads = ("real",)

    dataset: Identity
    question: str
    extractor: str
    reference: int
    n: int
    metrics: Sequence[str]
    versions: Mapping[str, Any]
    settings: Mapping[str, Any]
    labels: Sequence[Source]
    repeats: int

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.evaluation.design import Design
        from piflow_bench.evaluation.features import evaluate_with_replicates
        from piflow_bench.evaluation.inference.seeds import seed_interval
        from piflow_bench.evaluation.inputs import Extras
        from piflow_bench.evaluation.metrics.metric import all_metrics

        pool = artifacts.features(inputs["real"], self.extractor)
        dataset = runtime.dataset()
        parts = [labels_of(dataset, source) for source in self.labels]
        labels = np.concatenate([each for each in parts if each is not None] or [np.zeros(0)])
        known = len(labels) == len(pool)
        asked = [m for m in self.metrics if known or "labels" not in all_metrics()[m].needs]
        rng = np.random.default_rng(0)
        values: dict[str, list[float]] = {}
        estimators: dict[str, str] = {}
        for repeat in range(self.repeats):
            report(repeat / self.repeats, "real against real")
            order = rng.permutation(len(pool))
            reference = pool[order[: self.reference]]
            rows = order[self.reference :][: self.n]
            extras = Extras(
                labels=labels[rows] if known else None, design=Design.of(len(rows), law="as data")
            )
            for v in evaluate_with_replicates(
                pool[rows], reference, asked, extras=extras, **self.settings
            ):
                if np.isfinite(v.value) or not all_metrics()[v.metric].optional:
                    values.setdefault(v.metric, []).append(float(v.value))
                estimators[v.metric] = v.estimator
        found = []
        for metric, draws in values.items():
            over = replace(
                seed_interval(draws),
                method="t over re-partitions",
                estimand="mean over re-partitions",
            )
            found.append(score(metric, over, self.n, [], estimators[metric]))
        artifacts.write_scores(folder, found)
