"""What metrics need of the inputs and the network: checked before any work."""

from __future__ import annotations

from collections.abc import Sequence

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.extractors.extractor import FEATURES, LOGITS, SPATIAL, Extractor
from piflow_bench.evaluation.metrics import all_metrics
from piflow_bench.evaluation.sources import Reference, Sources


def check_metrics(names: Sequence[str]) -> None:
    """UserError for a name that no metric has."""
    known = all_metrics()
    for name in names:
        if name not in known:
            raise UserError(f"metrics={name}: no such metric; {nearest(name, list(known))}")


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


def check_statistics(target: Reference | None, network: Extractor) -> None:
    """UserError for a reference's statistics of another extractor."""
    statistics = target.statistics if target else None
    if statistics is None or statistics.extractor in (None, network.identity):
        return
    raise UserError(
        f"reference={statistics.path}: statistics of {statistics.extractor}, but the "
        f"samples are looked at with {network.identity}"
    )
