"""Score images by a protocol: open, extract, measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from piflow_bench.errors import UserError
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors.extractor import FEATURES, LOGITS, SPATIAL, Extractor
from piflow_bench.evaluation.features import MetricValue, evaluate_with_replicates
from piflow_bench.evaluation.images import NPZ_KEY, Images, npz_members, open_images
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.evaluation.metrics import all_metrics
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.protocols import Protocol, load_protocol
from piflow_bench.evaluation.statistics import Statistics, is_statistics, load_statistics

COLUMNS = [
    "metric", "value", "ci_low", "ci_high", "n", "n_reference", "extractor", "protocol",
    "protocol_hash",
]  # fmt: skip
Report = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference side: images, statistics, or both (ADM's files)."""

    images: Images | None
    statistics: Statistics | None


def open_reference(source: Any, workers: int) -> Reference:
    """Reference images or precomputed statistics."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix in (".pkl", ".pickle") and path.exists():
            load_statistics(path)  # Refused, with the way to convert it.
        if is_statistics(path):
            has_images = NPZ_KEY in npz_members(path, f"reference={path}")
            images = open_images(path, "reference", workers) if has_images else None
            return Reference(images, load_statistics(path))
    return Reference(open_images(source, "reference", workers), None)


def get_extractor(name: str, weights: str | None, device: str) -> Extractor:
    """The extractor plugin of that name, loaded."""
    import torch

    from piflow_bench import registry

    if device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"device={device}: no GPU is available here; use device=cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return registry.get("extractor", name)(weights, device)


def evaluate(
    samples: Any,
    reference: Any,
    protocol: str | Protocol = "default",
    *,
    extractor: str | None = None,
    weights: str | None = None,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    device: str = "cpu",
    workers: int = 2,
    batch: int = 32,
    cache: str | Path = "runs/store/features",
    report: Report = lambda what, done, total: None,
    **settings: Any,
) -> pd.DataFrame:
    """Scores of ``samples`` against ``reference``, one row a metric, with intervals.

    Args:
        samples: generated images: a folder, an ADM-style npz, an npy file, an array, a tensor or a
            torch dataset (see ``images.open_images``).
        reference: the same, or an npz of statistics (mu, sigma), which serve Fréchet distances.
        protocol: a named protocol, or one of your own.
        extractor: another extractor than the protocol's; the rows then say so.
        weights: the extractor's weights, where they are not in the cache folder.
        metrics: other metrics than the protocol's.
        n: score the first n samples.
        device: cpu or cuda.
        workers: threads that decode images.
        batch: images at once in the network.
        cache: folder of finished features; an interrupted call goes on from there.
        report: called with what is being done, images done and images in all.
        settings: settings of the metrics that override the protocol's.

    Returns:
        Columns metric, value, ci_low, ci_high, n, n_reference, extractor, protocol, protocol_hash.
        Intervals are of the metric's expectation at this n and this reference (delete-block
        jackknife, 95 %).

    Raises:
        UserError: naming the input and what to do.
    """
    rules = load_protocol(protocol) if isinstance(protocol, str) else protocol
    rules = dataclasses.replace(
        rules,
        extractor=extractor or rules.extractor,
        metrics=tuple(metrics or rules.metrics),
        samples=n or rules.samples,
        settings={**rules.settings, **settings},
    )
    for name in rules.metrics:
        _check_metric(name)
    generated = open_images(samples, "samples", workers)
    target = open_reference(reference, workers)
    count = rules.samples or len(generated)
    if count > len(generated):
        raise UserError(
            f"samples: {len(generated)} images, but {'n' if n else 'the protocol'} asks for "
            f"{count}; set n={len(generated)} to score them all"
        )
    network = get_extractor(rules.extractor, weights, device)
    _check_outputs(rules.metrics, network)
    _check_statistics(target, network)
    folder = Path(cache)

    def told(what: str) -> Callable[[int, int], None]:
        return lambda done, total: report(what, done, total)

    ours = extract(generated, network, folder, count, batch, told("samples"))
    theirs = None
    if target.images is not None:
        theirs = extract(target.images, network, folder, None, batch, told("reference"))
    values = _measure(rules, ours, theirs, target.statistics)
    reference_n = len(target.images) if target.images else target.statistics.pooled.n  # type: ignore[union-attr]
    shared = (reference_n, network.identity, rules.name, rules.hashed(network.identity, count))
    rows = [(v.metric, v.value, v.ci_low, v.ci_high, v.n, *shared) for v in values]
    return pd.DataFrame(rows, columns=COLUMNS)


def _check_metric(name: str) -> None:
    from piflow_bench.errors import nearest

    if name not in all_metrics():
        raise UserError(f"metrics={name}: no such metric; {nearest(name, list(all_metrics()))}")


def _check_outputs(metrics: Sequence[str], network: Extractor) -> None:
    for name in metrics:
        needed = {"is": LOGITS, "is_std": LOGITS, "sfd": SPATIAL}.get(name, FEATURES)
        if needed not in network.outputs:
            raise UserError(f"metric '{name}' needs {needed}, which {network.name} does not give")


def _check_statistics(target: Reference, network: Extractor) -> None:
    if target.statistics is None or target.statistics.extractor in (None, network.identity):
        return
    raise UserError(
        f"reference={target.statistics.path}: statistics of {target.statistics.extractor}, but the "
        f"samples are looked at with {network.identity}"
    )


def _measure(
    rules: Protocol,
    ours: dict[str, np.ndarray],
    theirs: dict[str, np.ndarray] | None,
    statistics: Statistics | None,
) -> list[MetricValue]:
    spatial = statistics.spatial if statistics else None
    if spatial is None and theirs is not None:
        extras = Extras(ours.get(LOGITS), None, ours.get(SPATIAL), theirs.get(SPATIAL))
    else:
        extras = Extras(ours.get(LOGITS), None, ours.get(SPATIAL), spatial)
    return evaluate_with_replicates(
        ours[FEATURES],
        None if theirs is None else theirs[FEATURES],
        rules.metrics,
        reference_moments=statistics.pooled if statistics else None,
        extras=extras,
        **rules.settings,
    )


def reference_statistics(
    source: Any,
    extractor: str = "inception",
    weights: str | None = None,
    device: str = "cpu",
    cache: str | Path = "runs/store/features",
) -> Statistics:
    """Statistics of a reference set, to be written with ``statistics.save_statistics``."""
    network = get_extractor(extractor, weights, device)
    images = open_images(source, "reference")
    found = extract(images, network, Path(cache))
    spatial = Moments.from_features(found[SPATIAL]) if SPATIAL in found else None
    pooled = Moments.from_features(found[FEATURES])
    return Statistics(images.path, pooled, spatial, network.identity)
