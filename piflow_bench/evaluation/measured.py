"""One set of samples, measured: features and scores in, values of metrics with replicates out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from piflow_bench.contracts.extractor import FEATURES, LOGITS, SPATIAL
from piflow_bench.errors import UserError
from piflow_bench.evaluation.cache import Arrays
from piflow_bench.evaluation.cautions import cautions
from piflow_bench.evaluation.features import MetricValue, evaluate_with_replicates
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.evaluation.pictures.files import natural
from piflow_bench.evaluation.protocols import Protocol
from piflow_bench.evaluation.settings import make_settings
from piflow_bench.evaluation.sources import Sources
from piflow_bench.evaluation.uncertainty import jackknife_interval

if TYPE_CHECKING:
    from piflow_bench.evaluation.metrics.lpips import Lpips
    from piflow_bench.evaluation.pictures.images import Images
    from piflow_bench.evaluation.scorers import Scorer

WHOLE = "all"
"""The group of rows over all samples."""
Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Measured:
    """The metrics of one set."""

    sources: Sources
    values: list[tuple[str, MetricValue]]
    """With their groups: ``WHOLE``, or a class."""
    warnings: list[str]


@dataclass(frozen=True)
class Measuring:
    """What all sets of one call are measured with."""

    rules: Protocol
    per_class: Sequence[str]
    lpips: Lpips | None
    scorers: Mapping[str, Scorer]
    """Networks of metrics of pictures with prompts, by metric."""
    device: str
    batch: int
    cache: Path | None
    report: Report

    @property
    def asked(self) -> list[str]:
        """All metrics, those within classes too."""
        return [*self.rules.metrics, *self.per_class]


def measure_set(
    by: Measuring,
    sources: Sources,
    ours: Arrays,
    theirs: Arrays | None,
    features: Callable[[str, Images], Arrays],
    name: str = "samples",
) -> Measured:
    """The metrics of a set.

    Args:
        by: the rules, the networks of single metrics, and where work is done.
        sources: the samples and what belongs to them.
        ours: outputs of the extractor for the samples.
        theirs: the same for the reference, where it is images.
        features: the extractor on other images; called with what they are.
        name: what the samples are called where progress is told.
    """
    rules, asked = by.rules, by.asked
    scores: dict[str, np.ndarray] = {}
    copies = 0
    if sources.teacher is not None and any(metric.startswith("teacher_") for metric in asked):
        from piflow_bench.evaluation.metrics.per_sample import copies_of_teacher, teacher_scores

        teacher = sources.teacher
        scores |= teacher_scores(
            asked,
            sources.samples,
            teacher,
            lambda: (ours[FEATURES], features("teacher", teacher)[FEATURES]),
            by.lpips,
            by.cache,
            by.batch,
            partial(by.report, f"distances of {name} and teacher"),
        )
        copies = copies_of_teacher(scores, sources.samples, teacher, by.batch)
    for metric, scorer in by.scorers.items():
        from piflow_bench.evaluation.metrics.per_sample import prompt_scores

        assert sources.prompts is not None
        told = partial(by.report, f"{metric} of {name}")
        scores[metric] = prompt_scores(
            scorer, sources.samples, sources.prompts, by.cache, by.batch, told
        )
    groups = None
    if by.lpips is not None and "lpips_within" in asked:
        from piflow_bench.evaluation.metrics.per_sample import lpips_groups

        assert sources.labels is not None
        told = partial(by.report, f"pairs of {name}")
        groups = lpips_groups(sources.samples, sources.labels, by.lpips, by.cache, told)
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
            device=by.device,
            report=partial(by.report, f"metrics of {name}"),
            **rules.settings,
        )
    ]
    chosen = make_settings(rules.settings)
    warnings = cautions(asked, sources, ours, theirs, chosen, rules.precision, copies)
    if by.per_class:
        on = {"device": by.device, **rules.settings}
        told = partial(by.report, f"classes of {name}")
        of_classes, reasons = _by_class(by.per_class, ours, theirs, sources, extras, on, told)
        values += of_classes
        warnings += reasons
    return Measured(sources, values, warnings)


def _by_class(
    metrics: Sequence[str],
    ours: Arrays,
    theirs: Arrays | None,
    sources: Sources,
    extras: Extras,
    settings: dict[str, Any],
    report: Callable[[int, int], None],
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
    classes = sorted(set(labels), key=natural)
    for number, name in enumerate(classes):
        report(number, len(classes))
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
        f"per_class: no value of {metric} in {len(names)} of {len(classes)} classes, such as "
        f"{names[0]}: {reason}"
        for (metric, reason), names in lacking.items()
    ]
