"""What metrics need of the inputs and the network: checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from piflow_bench.contracts.extractor import FEATURES, LOGITS, SPATIAL, Extractor
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.evaluation.sources import Reference, Sources


def check_metrics(names: Sequence[str]) -> None:
    """UserError for a name that no metric has, and for what images alone do not give."""
    known = all_metrics()
    for name in names:
        if name not in known:
            raise UserError(f"metrics={name}: no such metric; {nearest(name, list(known))}")
        if known[name].compute is None:
            needs = " and ".join(known[name].needs)
            raise UserError(f"metric '{name}' is of runs, which know {needs}; images do not tell")


def check_inputs(metrics: Sequence[str], sources: Sources) -> None:
    """UserError for the first metric whose inputs were not given."""
    given = {
        "reference": (sources.reference, "reference=PATH"),
        "spatial": (sources.reference, "reference=PATH"),
        "teacher": (sources.teacher, "teacher=PATH, the teacher's images for the same noise"),
        "prompts": (sources.prompts, "prompts=FILE"),
        "labels": (sources.labels, "labels=FILE.npy"),
        "lpips": (sources.labels, "labels=FILE.npy or prompts=FILE, whose samples are paired"),
    }
    for name in metrics:
        for need in all_metrics()[name].needs:
            if need in given and given[need][0] is None:
                raise UserError(f"metric '{name}' needs {given[need][1]}")
            labels = sources.labels if need in ("labels", "lpips") else None
            if labels is not None and len(np.unique(labels)) == sources.count:
                raise UserError(
                    f"metric '{name}' compares samples of a class, but each of the {sources.count} "
                    "classes has one sample"
                )


def check_outputs(metrics: Sequence[str], network: Extractor) -> None:
    """UserError for the first metric that this network is not for."""
    for name in metrics:
        needs = all_metrics()[name].needs
        needed = next((output for output in (LOGITS, SPATIAL) if output in needs), FEATURES)
        if needed not in network.outputs:
            raise UserError(f"metric '{name}' needs {needed}, which {network.name} does not give")
        meant = all_metrics()[name].extractor
        if meant not in (None, network.name):
            raise UserError(
                f"metric '{name}' is of extractor={meant}, not of {network.name}; the formula on "
                "any features is 'mmd_rbf_unit'"
            )


def check_classes(per_class: Sequence[str], sources: Sources) -> None:
    """UserError where metrics within classes have no classes, of either side."""
    if not per_class:
        return
    if sources.labels is None:
        raise UserError("per_class: the samples have no classes; give labels=FILE.npy")
    known = all_metrics()
    for name in per_class:
        if {"labels", "lpips"} & set(known[name].needs):
            raise UserError(f"per_class: {name} looks within classes by itself; ask it of metrics=")
    needy = [name for name in per_class if {"reference", "spatial"} & set(known[name].needs)]
    images = sources.reference.images if sources.reference else None
    if needy and (images is None or images.labels is None):
        raise UserError(
            f"per_class: {needy[0]} needs a reference whose images have classes: a folder of "
            "folders or an npz with arr_1"
        )


def check_statistics(metrics: Sequence[str], target: Reference | None, network: Extractor) -> None:
    """UserError for statistics of another extractor, and for metrics that they do not serve."""
    statistics = target.statistics if target else None
    if target is None or statistics is None:
        return
    if statistics.extractor not in (None, network.identity):
        raise UserError(
            f"reference={statistics.path}: statistics of {statistics.extractor}, but the "
            f"samples are looked at with {network.identity}"
        )
    if target.images is not None:
        return
    known = all_metrics()
    served = [metric for metric in known.values() if metric.from_moments]
    if statistics.spatial is None:
        served = [metric for metric in served if SPATIAL not in metric.needs]
    enough = ", ".join(metric.name for metric in served)
    for name in metrics:
        if SPATIAL in known[name].needs and known[name] not in served:
            raise UserError(
                f"metric '{name}' needs statistics of spatial features (mu_s, sigma_s), which "
                f"reference={statistics.path} does not hold; it serves only {enough}"
            )
        if "reference" in known[name].needs and known[name] not in served:
            raise UserError(
                f"metric '{name}' needs reference images or features; statistics give only {enough}"
            )
