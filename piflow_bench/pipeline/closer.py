"""A closer look at one set of samples: by sample count, by class, and selected samples.

What these stages find is shown beside the results and never ranked, so it has no intervals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from piflow_bench.contracts.data import Dataset
from piflow_bench.pipeline import arrays
from piflow_bench.pipeline.runtime import Inputs, Report, Runtime

LOOKED_AT = 2000
"""Samples among which some are selected: the first ones."""
SELECTED = 10
IN_A_CLASS = 20
"""Samples of a class, on both sides, from which on it is scored by itself."""
CLASSES = 100
"""Classes that are scored by themselves: the first ones."""


def breakdown(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """The Fréchet distance against sample count, and the primary metrics of every class."""
    name, n = config["extractor"], config["n"]
    generated = arrays.features(inputs["generated"], name)[:n]
    reference = arrays.output(inputs["reference"], name)
    rows: list[dict[str, Any]] = []
    if config["by_size"]:
        report(0.0, "Fréchet distance by sample count")
        rows += _by_size(generated, reference, arrays.moments_of(inputs["reference"], name))
    if reference is not None:
        dataset = runtime.dataset()
        own = _labels(dataset.conditions(config["sample_seed"], range(len(generated))))
        others = _reference_labels(config, dataset, len(reference))
        if own is not None and others is not None:
            report(0.5, "classes")
            rows += _by_class(config, generated, own, reference, others)
    (folder / "breakdown.json").write_text(json.dumps(rows))


def _by_size(
    generated: np.ndarray, reference: np.ndarray | None, moments: Any
) -> list[dict[str, Any]]:
    from piflow_bench.evaluation.metrics.frechet import FrechetReference, at_infinity, fd_by_size
    from piflow_bench.evaluation.moments import Moments

    known = moments or Moments.from_features(np.asarray(reference, np.float64))
    try:
        sizes, values = fd_by_size(np.asarray(generated, np.float64), FrechetReference(known))
    except ValueError:  # Too few samples to nest.
        return []
    rows = [
        {"kind": "size", "group": str(size), "metric": "fd", "value": float(value), "n": int(size)}
        for size, value in zip(sizes, values, strict=True)
    ]
    end = {"metric": "fd_infinity", "value": at_infinity(sizes, values), "n": int(sizes[-1])}
    return [*rows, {"kind": "size", "group": "infinity", **end}]


def _labels(condition: Any) -> np.ndarray | None:
    packed = condition.pack().numpy()
    return packed if packed.ndim == 1 else None


def _reference_labels(config: Mapping[str, Any], dataset: Dataset, n: int) -> np.ndarray | None:
    if config["question"] == "imitation":
        return _labels(dataset.conditions(config["reference_seed"], range(n)))
    if config["question"] == "data" and dataset.reference is None:
        return _labels(dataset.test_condition)
    return None


def _by_class(
    config: Mapping[str, Any],
    generated: np.ndarray,
    own: np.ndarray,
    reference: np.ndarray,
    others: np.ndarray,
) -> list[dict[str, Any]]:
    from piflow_bench.evaluation.features import evaluate_with_replicates
    from piflow_bench.evaluation.metrics.metric import all_metrics

    known = all_metrics()
    metrics = [
        m for m in dict.fromkeys(config["metrics"])
        if set(known[m].needs) <= {"generated", "reference"}
    ]  # fmt: skip
    shared = np.intersect1d(own, others)
    if len(shared) < 2 or not metrics:
        return []
    rows = []
    settings = {**config["settings"], "intervals": False}
    for label in shared[:CLASSES]:
        x, y = generated[own == label], reference[others == label]
        if min(len(x), len(y)) < IN_A_CLASS:
            continue
        settings["neighbour_reference"] = None
        for v in evaluate_with_replicates(x, y, metrics, **settings):
            about = {"kind": "class", "group": str(label), "metric": v.metric}
            rows.append({**about, "value": float(v.value), "n": len(x)})
    return rows


def _pictures(dataset: Dataset, x: torch.Tensor) -> np.ndarray:
    assert dataset.space.pictures is not None
    return dataset.space.pictures(x)


def selection(
    config: Mapping[str, Any], inputs: Inputs, folder: Path, runtime: Runtime, report: Report
) -> None:
    """Samples picked by stated rules, and how near the samples come to training images."""
    from piflow_bench.evaluation.selection import extremes, nearest, share_below

    dataset = runtime.dataset()
    name = config["extractor"]
    x = arrays.samples(inputs["samples"])[:LOOKED_AT]
    features = arrays.features(inputs["features"], name)[: len(x)]
    labels = _labels(dataset.conditions(config["sample_seed"], range(len(x))))
    written: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []

    def show(rule: str, text: str, scores: np.ndarray, largest: bool, beside: Any = None) -> None:
        picked = extremes(scores, SELECTED, largest)
        written[rule] = _pictures(dataset, torch.from_numpy(x[picked]))
        row = {"rule": rule, "text": text, "index": picked.tolist()}
        row["score"] = [float(scores[i]) for i in picked]
        if labels is not None:
            row["label"] = [int(labels[i]) for i in picked]
        if beside is not None:
            written[f"{rule}-beside"] = _pictures(dataset, torch.from_numpy(beside(picked)))
        rows.append(row)

    report(0.0, "distances to the reference")
    reference = arrays.output(inputs["reference"], name)
    if reference is not None:
        gap, _ = nearest(features, reference)
        among = f"of {len(reference):,} reference samples in {name} features"
        show("best", f"nearest to one {among}", gap, False)
        show("worst", f"farthest from the nearest {among}", gap, True)
    target = arrays.samples(inputs["converged"])[: len(x)]
    apart = np.square(x.astype(np.float64) - target).reshape(len(x), -1).mean(1)
    if apart.any():  # The converged teacher is not far from itself.
        text = "largest mean squared difference from the teacher's sample of the same noise"
        show("teacher", text, apart, True, lambda picked: target[picked])
    about: dict[str, Any] = {"rows": rows, "looked_at": len(x)}
    if "train" in inputs:
        report(0.5, "distances to training images")
        train_features = arrays.features(inputs["train_features"], name)
        near, which = nearest(features, train_features)
        train = arrays.samples(inputs["train"])
        text = f"nearest to one of {len(train):,} training images in {name} features"
        show("training", text, near, False, lambda picked: train[which[picked]])
    if "test_features" in inputs:
        usual, _ = nearest(arrays.features(inputs["test_features"], name), train_features)
        about |= {"near_training": share_below(near, usual), "held_out": len(usual)}
    np.savez_compressed(folder / "selection.npz", **written)  # type: ignore[arg-type]
    (folder / "selection.json").write_text(json.dumps(about))
