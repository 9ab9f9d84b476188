"""Samples picked by stated rules, and how near samples come to training images.

What is found is shown beside the results and never ranked, so it has no intervals.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.labels import classes_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Report, Task

LOOKED_AT = 2000
"""Samples among which some are selected: the first ones."""
SELECTED = 10
PICTURES, FACTS = "selection.npz", "selection.json"


@dataclass(frozen=True, kw_only=True)
class Select(Task):
    """The best, worst and most unlike samples of a set, with what is beside them."""

    kind = "selection"
    reads = ("samples", "features", "converged", "reference", "train", "train_features",
             "test_features")  # fmt: skip
    networks = True

    dataset: Identity
    space: Identity
    extractor: str
    question: str
    sample_seed: int

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        from piflow_bench.evaluation.selection import extremes, nearest, share_below

        dataset = runtime.dataset()
        pictures = dataset.space.pictures
        assert pictures is not None
        name = self.extractor
        x = artifacts.samples(inputs["samples"])[:LOOKED_AT]
        features = artifacts.features(inputs["features"], name)[: len(x)]
        labels = classes_of(dataset.conditions(self.sample_seed, range(len(x))))
        written: dict[str, np.ndarray] = {}
        rows: list[dict[str, Any]] = []

        def show(
            rule: str, text: str, scores: np.ndarray, largest: bool, beside: Any = None
        ) -> None:
            picked = extremes(scores, SELECTED, largest)
            written[rule] = pictures(torch.from_numpy(x[picked]))
            row = {"rule": rule, "text": text, "index": picked.tolist()}
            row["score"] = [float(scores[i]) for i in picked]
            if labels is not None:
                row["label"] = [int(labels[i]) for i in picked]
            if beside is not None:
                written[f"{rule}-beside"] = pictures(torch.from_numpy(beside(picked)))
            rows.append(row)

        report(0.0, "distances to the reference")
        reference = artifacts.output(inputs["reference"], name)
        if reference is not None:
            gap, _ = nearest(features, reference)
            among = f"of {len(reference):,} reference samples in {name} features"
            show("best", f"nearest to one {among}", gap, False)
            show("worst", f"farthest from the nearest {among}", gap, True)
        target = artifacts.samples(inputs["converged"])[: len(x)]
        apart = np.square(x.astype(np.float64) - target).reshape(len(x), -1).mean(1)
        if apart.any():  # The converged teacher is not far from itself.
            text = "largest mean squared difference from the teacher's sample of the same noise"
            show("teacher", text, apart, True, lambda picked: target[picked])
        about: dict[str, Any] = {"rows": rows, "looked_at": len(x)}
        if "train" in inputs:
            report(0.5, "distances to training images")
            train_features = artifacts.features(inputs["train_features"], name)
            near, which = nearest(features, train_features)
            train = artifacts.samples(inputs["train"])
            text = f"nearest to one of {len(train):,} training images in {name} features"
            show("training", text, near, False, lambda picked: train[which[picked]])
        if "test_features" in inputs:
            usual, _ = nearest(artifacts.features(inputs["test_features"], name), train_features)
            about |= {"near_training": share_below(near, usual), "held_out": len(usual)}
        np.savez_compressed(folder / PICTURES, **written)  # type: ignore[arg-type]
        (folder / FACTS).write_text(json.dumps(about))
