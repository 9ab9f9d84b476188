"""Diversity of one set of samples within each class or prompt, under the primary features."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.labels import classes_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task

GROUPS = 100
"""Classes or prompts that are looked at: the first ones."""
METRIC = "pairwise_distance"
KIND = "within"
FILE = "within.json"


@dataclass(frozen=True, kw_only=True)
class Within(Task):
    """The mean pairwise distance of every class's or prompt's samples, with replicates.

    Each group is cut into equally many blocks, sample by sample in turn, so that a block has the
    same samples of the teacher and of every student.
    """

    kind = KIND
    reads = ("generated",)

    dataset: Identity
    extractor: str
    sample_seed: int
    n: int
    versions: Mapping[str, Any]

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.evaluation.design import BLOCKS
        from piflow_bench.evaluation.metrics.diversity import pairwise_replicates

        report(0.0, "diversity within classes")
        generated = artifacts.features(inputs["generated"], self.extractor)[: self.n]
        labels = classes_of(runtime.dataset().conditions(self.sample_seed, range(len(generated))))
        rows: list[dict[str, Any]] = []
        found, sizes = (
            (np.zeros(0), np.zeros(0)) if labels is None else np.unique(labels, return_counts=True)
        )
        # Without a block there must be a pair left.
        chosen = found[sizes >= 3][:GROUPS]
        blocks = min(BLOCKS, int(sizes[sizes >= 3][:GROUPS].min(initial=BLOCKS)))
        for label in chosen:
            own = generated[labels == label]
            if not own.any(axis=1).all():  # No direction, so no cosine.
                continue
            ids = np.arange(len(own)) % blocks
            value, left = pairwise_replicates(own, None, ids)
            about = {"kind": KIND, "group": str(label), "metric": METRIC, "n": len(own)}
            rows.append({**about, "value": value, "replicates": [float(v) for v in left]})
        (folder / FILE).write_text(json.dumps(rows))
