"""Score images by a protocol: open, extract, measure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from piflow_bench.errors import UserError
from piflow_bench.evaluation import needs
from piflow_bench.evaluation.cautions import cautions, of_copies
from piflow_bench.evaluation.extraction import DIGESTS, Arrays, extract
from piflow_bench.evaluation.extractors.extractor import (
    FEATURES,
    LOGITS,
    SPATIAL,
    Extractor,
    get_extractor,
    usual_batch,
)
from piflow_bench.evaluation.features import MetricValue, evaluate_with_replicates
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.evaluation.metrics import all_metrics
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.pictures.files import natural
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.protocols import Protocol, load_protocol, rules_hash
from piflow_bench.evaluation.settings import make_settings
from piflow_bench.evaluation.sources import Sources, open_sources
from piflow_bench.evaluation.statistics import Statistics
from piflow_bench.evaluation.subsets import described, subset
from piflow_bench.evaluation.uncertainty import jackknife_interval
from piflow_bench.files import check_writable

if TYPE_CHECKING:
    from piflow_bench.evaluation.extractors.clip import Clip
    from piflow_bench.evaluation.lpips import Lpips
    from piflow_bench.evaluation.pictures.images import Images

COLUMNS = [
    "metric", "group", "value", "ci_low", "ci_high", "confidence", "n", "n_reference", "interval",
    "estimand", "estimator", "samples", "taken", "classes", "reference", "extractor", "protocol",
    "protocol_hash", "rules", "warnings",
]  # fmt: skip
OF_CLASSES = {"pairwise_within", "vendi_within", "lpips_within"}
"""Metrics whose value depends on which samples share a class."""
WHOLE = "all"
"""The group of rows over all samples."""
Report = Callable[[str, int, int], None]


def evaluate(
    samples: Any,
    reference: Any = None,
    protocol: str | Protocol = "default",
    *,
    extractor: str | None = None,
    weights: str | None = None,
    metrics: str | Sequence[str] | None = None,
    n: int | None = None,
    teacher: Any = None,
    prompts: Any = None,
    labels: Any = None,
    per_class: str | Sequence[str] = (),
    lpips_weights: str | None = None,
    clip_weights: str | None = None,
    device: str = "cpu",
    precision: str | None = None,
    compiled: bool = False,
    workers: int = 2,
    processes: int = 1,
    batch: int | None = None,
    cache: str | Path = "runs/store/features",
    report: Report = lambda what, done, total: None,
    **settings: Any,
) -> pd.DataFrame:
    """Scores of ``samples`` against ``reference``, one row a metric, with intervals.

    Args:
        samples: generated images: a folder, an ADM-style npz, an npy file, an array, a tensor or a
            torch dataset (see ``pictures.opening.open_images``).
        reference: the same, or an npz of statistics (mu, sigma), which serve Fréchet distances;
            None for metrics that need none.
        protocol: a named protocol, or one of your own.
        extractor: another extractor than the protocol's; the rows then say so.
        weights: the extractor's weights, where they are not in the cache folder.
        metrics: other metrics than the protocol's.
        n: score n samples, a fixed draw that keeps the shares of classes.
        teacher: the teacher's images for the same noise, one a sample (``teacher_*`` metrics); two
            folders are paired by their images' names.
        prompts: one a sample: a list, a .txt file of lines or a .json list (``clip_score``); or by
            the samples' names, a dictionary or a .json file of one.
        labels: class or prompt of every sample: an array, a .npy or a .json file; or by name, as
            prompts; known without it for npz files with ``arr_1``, for folders of folders, and
            from ``prompts``.
        per_class: metrics that are also scored within every class, in rows of their own; a class
            that is too small for one has a row without a value, and a warning says why.
        lpips_weights: LPIPS's weights, where they are not in the cache folder.
        clip_weights: the same of the CLIP model of ``clip_score``.
        device: cpu, cuda or cuda:1.
        precision: of the network: float32, tf32 or bfloat16, in place of the protocol's.
        compiled: whether ``torch.compile`` takes the network first.
        workers: threads that decode images.
        processes: how many extract features at once, on a GPU each where there are several.
        batch: images at once in the network; None for what suits the device.
        cache: folder of finished features; an interrupted call goes on from there.
        report: called with what is being done, images done and images in all.
        settings: settings of the metrics that override the protocol's.

    Returns:
        Columns ``COLUMNS``: metric, group ("all", or a class), value, its interval with its
        confidence (0 to 1), what it is an interval of and by which method, sample counts, what
        stands for an expectation, what was scored against what, the extractor, and the protocol
        with its hash and its rules as JSON. Values of one metric compare where ``estimator`` is
        one: means over pairs are weighed by classes where these are known and decided.

    Raises:
        UserError: naming the input and what to do.
    """
    if n is not None and n < 1:
        raise UserError(f"n={n}: must be at least 1")
    per_class = [per_class] if isinstance(per_class, str) else per_class
    rules = load_protocol(protocol) if isinstance(protocol, str) else protocol
    rules = dataclasses.replace(
        rules,
        extractor=extractor or rules.extractor,
        metrics=(metrics,) if isinstance(metrics, str) else tuple(metrics or rules.metrics),
        samples=n or rules.samples,
        precision=precision or rules.precision,
        settings={**rules.settings, **settings},
    )
    asked = [*rules.metrics, *per_class]
    needs.check_metrics(asked)
    cache = Path(cache)
    check_writable("cache", cache)
    sources = open_sources(
        samples,
        reference,
        rules.samples,
        cut=n is not None,
        teacher=teacher,
        prompts=prompts,
        labels=labels,
        workers=workers,
    )
    needs.check_inputs(asked, sources)
    needs.check_classes(per_class, sources)
    network = get_extractor(rules.extractor, weights, device, rules.precision, compiled)
    needs.check_outputs(asked, network)
    needs.check_statistics(asked, sources.reference, network)
    lpips, clip = _further_networks(asked, lpips_weights, clip_weights, device)
    batch = batch or usual_batch(device)

    def features(what: str, images: Images) -> Arrays:
        return extract(images, network, cache, batch, partial(report, what), processes)

    ours = features("samples", sources.samples)
    theirs = None
    if sources.reference is not None and sources.reference.images is not None:
        theirs = features("reference", sources.reference.images)
    scores: dict[str, np.ndarray] = {}
    copies = 0
    if sources.teacher is not None and any(name.startswith("teacher_") for name in asked):
        from piflow_bench.evaluation.per_sample import copies_of_teacher, teacher_scores

        scores |= teacher_scores(
            asked,
            sources.samples,
            sources.teacher,
            lambda: (ours[FEATURES], features("teacher", sources.teacher)[FEATURES]),
            lpips,
            cache,
            batch,
            partial(report, "samples and teacher"),
        )
        copies = copies_of_teacher(scores, sources.samples, sources.teacher, batch)
    if clip is not None:
        from piflow_bench.evaluation.per_sample import prompt_scores

        assert sources.prompts is not None
        scores["clip_score"] = prompt_scores(
            clip,
            sources.samples,
            sources.prompts,
            rules.settings.get("clip_scale", "cosine"),
            cache,
            batch,
            partial(report, "samples for CLIP"),
        )
    groups = None
    if lpips is not None and "lpips_within" in asked:
        from piflow_bench.evaluation.per_sample import lpips_groups

        assert sources.labels is not None
        told = partial(report, "pairs of samples")
        groups = lpips_groups(sources.samples, sources.labels, lpips, cache, told)
    reference_spatial: Any = None if theirs is None else theirs.get(SPATIAL)
    statistics = sources.reference.statistics if sources.reference else None
    if statistics is not None and statistics.spatial is not None:
        reference_spatial = statistics.spatial
    images = sources.reference.images if sources.reference else None
    known = images.labels if images and theirs else None
    extras = Extras(
        ours.get(LOGITS),
        sources.labels,
        ours.get(SPATIAL),
        reference_spatial,
        scores,
        groups,
        sources.design,
    )
    values = [
        (WHOLE, value)
        for value in evaluate_with_replicates(
            ours[FEATURES],
            None if theirs is None else theirs[FEATURES],
            rules.metrics,
            reference_moments=statistics.pooled if statistics else None,
            reference_labels=known,
            extras=extras,
            device=device,
            **rules.settings,
        )
    ]
    chosen = make_settings(rules.settings)
    warnings = cautions(asked, sources, ours, theirs, chosen, rules.precision, copies)
    if per_class:
        on = {"device": device, **rules.settings}
        of_classes, reasons = _by_class(per_class, ours, theirs, sources, extras, on)
        values += of_classes
        warnings += reasons
    return _rows(values, rules, sources, network, warnings)


def _rows(
    values: list[tuple[str, MetricValue]],
    rules: Protocol,
    sources: Sources,
    network: Extractor,
    warnings: list[str],
) -> pd.DataFrame:
    target = sources.reference
    digest = target.digest() if target else "none"
    classes = sources.classes() if OF_CLASSES & set(rules.metrics) else "not used"
    resolved = rules.rules(network.identity, sources.count, digest, classes)
    shared = (
        sources.samples.path,
        sources.taken,
        sources.classes(),
        target.path if target else "",
        network.identity,
        rules.name,
        rules_hash(resolved),
        json.dumps(resolved, sort_keys=True),
        "\n".join(warnings),
    )
    count = None if target is None else target.count
    confidence = make_settings(rules.settings).confidence
    rows = []
    for group, v in values:
        of_reference = count if group == WHOLE else None
        bounds = (v.ci_low, v.ci_high, confidence, v.n, of_reference, v.interval.how)
        rows.append((v.metric, group, v.value, *bounds, v.interval.estimand, v.estimator, *shared))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n_reference": "Int64"})


def _further_networks(
    metrics: Sequence[str], lpips_weights: str | None, clip_weights: str | None, device: str
) -> tuple[Lpips | None, Clip | None]:
    """The networks that single metrics need, before any work: weights may be missing."""
    lpips, clip = None, None
    if {"teacher_lpips", "lpips_within"} & set(metrics):
        from piflow_bench.evaluation.lpips import load

        lpips = load(lpips_weights, device)
    if "clip_score" in metrics:
        from piflow_bench.evaluation.extractors.clip import open_model

        clip = open_model(clip_weights, device, setting="clip.weights")
    return lpips, clip


def _by_class(
    metrics: Sequence[str],
    ours: Arrays,
    theirs: Arrays | None,
    sources: Sources,
    extras: Extras,
    settings: dict[str, Any],
) -> tuple[list[tuple[str, MetricValue]], list[str]]:
    """Metrics within every class, against the reference's samples of that class.

    Also in words what has no value, and why.
    """
    labels = sources.labels
    assert labels is not None
    images = sources.reference.images if sources.reference else None
    of_reference = images.labels if images else None
    found: list[tuple[str, MetricValue]] = []
    lacking: dict[tuple[str, str], list[str]] = {}
    for name in sorted(set(labels), key=natural):
        mine = labels == name
        within = Extras(
            None if extras.logits is None else extras.logits[mine],
            spatial=None if extras.spatial is None else extras.spatial[mine],
            scores={key: values[mine] for key, values in extras.scores.items()},
        )
        same = None
        if theirs is not None and of_reference is not None:
            same = theirs[FEATURES][of_reference == name]
            if SPATIAL in theirs:
                of_class = theirs[SPATIAL][of_reference == name]
                within = dataclasses.replace(within, reference_spatial=of_class)
        try:  # Together they share their passes over pairs.
            values = evaluate_with_replicates(
                ours[FEATURES][mine], same, metrics, extras=within, **settings
            )
        except UserError:
            values = []
            for metric in metrics:
                against = same if "reference" in all_metrics()[metric].needs else None
                try:
                    values += evaluate_with_replicates(
                        ours[FEATURES][mine], against, [metric], extras=within, **settings
                    )
                except UserError as error:
                    lacking.setdefault((metric, str(error)), []).append(str(name))
                    nothing = jackknife_interval(np.nan, (), make_settings(settings).confidence)
                    values.append(MetricValue(metric, nothing, int(mine.sum()), ()))
        # A spread comes with its metric, whether it is asked for or not.
        once = {value.metric: value for value in values}
        group = f"class {name}" if name == WHOLE else str(name)
        found += [(group, value) for value in once.values()]
    return found, [
        f"per_class: no value of {metric} in {len(names)} of {len(set(labels))} classes, such as "
        f"{names[0]}: {reason}"
        for (metric, reason), names in lacking.items()
    ]


# ------------------------------------------------------------------ statistics


def reference_statistics(
    source: Any,
    extractor: str = "inception",
    weights: str | None = None,
    *,
    device: str = "cpu",
    precision: str = "float32",
    compiled: bool = False,
    n: int | None = None,
    workers: int = 2,
    processes: int = 1,
    batch: int | None = None,
    cache: str | Path = "runs/store/features",
    report: Report = lambda what, done, total: None,
) -> Statistics:
    """Statistics of a reference set, to be written with ``statistics.save_statistics``.

    Arguments as for ``evaluate``.
    """
    network = get_extractor(extractor, weights, device, precision, compiled)
    given = open_images(source, "samples", workers)
    size = len(given) if n is None else n
    if not 2 <= size <= len(given):
        raise UserError(f"samples: n={size} of {len(given)} images; at least 2 are needed")
    images = given.take(subset(len(given), size, given.labels))
    told = partial(report, "samples")
    found = extract(images, network, Path(cache), batch or usual_batch(device), told, processes)
    spatial = Moments.from_features(found[SPATIAL]) if SPATIAL in found else None
    pooled = Moments.from_features(found[FEATURES])
    taken = described(len(given), size, given.labels)
    noted = [text.removeprefix("samples=") for text in images.warnings]
    noted += of_copies(found[DIGESTS], "images equal")
    sides = images.width, images.height
    return Statistics(
        images.path, pooled, spatial, network.identity, pooled.n, taken, sides, network.precision,
        tuple(noted),
    )  # fmt: skip
