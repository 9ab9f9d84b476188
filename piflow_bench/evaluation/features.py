"""Scores of feature sets: values, delete-block replicates and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.inputs import Extras, Inputs
from piflow_bench.evaluation.metrics.metric import PAIRS, SUBSETS, Metric, all_metrics
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.pairs.polynomial import prefers_moments
from piflow_bench.evaluation.references.facts import Reference
from piflow_bench.evaluation.settings import (
    Settings,
    check_blocks,
    check_features,
    make_settings,
)
from piflow_bench.evaluation.subsets import subset
from piflow_bench.evaluation.uncertainty import Interval, jackknife_interval

if TYPE_CHECKING:
    from piflow_bench.evaluation.pairs.passes import Wanted

_LEAST = {"fd": 2, "sfd": 2, "fd_infinity": 3, "kid_exact": 2, "energy_distance": 2}
"""Samples that an estimate needs, also one without a block."""
_OF_DIRECTIONS = ("vendi", "vendi_within", "pairwise_distance", "pairwise_within")
DEFAULT_METRICS = ("fd", "kid_exact", "precision", "recall", "density", "coverage", "vendi")


@dataclass(frozen=True)
class MetricValue:
    """A metric of one sample set with its interval; ``replicates``: delete-one-block values."""

    metric: str
    interval: Interval
    n: int
    replicates: tuple[float, ...]
    estimator: str = ""
    """What stands for expectations: "plug-in", "U-statistic", "stratified by 10 classes"."""

    @property
    def value(self) -> float:
        """The metric itself."""
        return self.interval.value

    @property
    def ci_low(self) -> float:
        """Lower end of the interval."""
        return self.interval.low

    @property
    def ci_high(self) -> float:
        """Upper end of the interval."""
        return self.interval.high


def evaluate_with_replicates(
    generated: np.ndarray,
    reference: np.ndarray | None,
    metrics: Sequence[str],
    *,
    generated_logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    reference_labels: np.ndarray | None = None,
    reference_moments: Moments | None = None,
    extras: Extras | None = None,
    block_ids: np.ndarray | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> list[MetricValue]:
    """Metrics of generated features ``(n, d)`` against reference features ``(m, d)``.

    ``generated_logits`` ``(n, classes)`` for the Inception score; ``labels`` ``(n,)`` and
    ``reference_labels`` ``(m,)`` are classes or prompts: blocks keep a balanced design of them;
    ``reference_moments`` take the place of the reference features' own in Fréchet distances, and
    need no features beside them; ``extras`` are further inputs, in place of the logits and labels;
    ``block_ids`` ``(n,)`` are the blocks of the jackknife (default: 20 that keep the design, see
    ``design.Design``; values that are to be paired need the same ids); ``report`` is called with
    how many metrics are done, and how many there are.
    ``settings``: the fields of ``Settings``. Order as asked for, each spread after its mean.
    Raises UserError for unknown names, impossible values and unusable features.
    """
    chosen = make_settings(settings)
    asked = _check_metrics(metrics)
    x = check_features(generated, "generated")
    y = None if reference is None else check_features(reference, "reference")
    given = extras or Extras(generated_logits, labels)
    if reference_labels is not None:
        m = 0 if y is None else len(y)
        if len(reference_labels) != m:
            raise UserError(f"reference_labels has {len(reference_labels)} rows for {m} samples")
        stated = given.reference_design or Design.of(m, reference_labels)
        given = replace(given, reference_design=stated)
    columns = {0 if y is None else y.shape[1]} | {
        0 if reference_moments is None else len(reference_moments.mean)
    }
    for other in columns - {0, x.shape[1]}:
        raise UserError(
            f"generated features have {x.shape[1]} columns and the reference {other}: "
            "both must come from one extractor"
        )
    if given.logits is not None:
        check_features(given.logits, "logits")
    for rows, what in (
        (given.logits, "generated_logits"),
        (given.labels, "labels"),
        (given.spatial, "spatial features"),
        (block_ids, "block_ids"),
    ):
        if rows is not None and len(rows) != len(x):
            raise UserError(f"{what} has {len(rows)} rows for {len(x)} generated samples")
    design = given.design or Design.of(len(x), given.labels)
    blocks = check_blocks(block_ids, design) if chosen.intervals else np.zeros(len(x), int)
    held = None
    if y is not None or reference_moments is not None:
        held = Reference(np.empty((0, x.shape[1])) if y is None else y, reference_moments)
    whole = Inputs(x, held, blocks, chosen, replace(given, design=design))
    views = _views(asked, whole, reference_labels)
    for metric, inputs in zip(asked, views, strict=True):
        _check_needs(metric, inputs)
    for metric, inputs in zip(asked, views, strict=True):
        _check_count(metric.name, inputs)
    return _score(asked, views, report)


def _views(
    metrics: Sequence[Metric], inputs: Inputs, reference_labels: np.ndarray | None
) -> list[Inputs]:
    """What each metric looks at; those that look at the same share their passes over pairs."""
    n, m = inputs.n, 0 if inputs.reference is None else len(inputs.ref.rows)
    counts = [_rows_seen(metric, n, m, inputs.settings) for metric in metrics]
    views: dict[tuple[int, int], Inputs] = {}
    for both in set(counts):
        view = inputs
        if both != (n, m):
            ours = subset(n, both[0], inputs.extras.labels)
            view = inputs.among(ours, subset(m, both[1], reference_labels))
        seen = [metric for metric, each in zip(metrics, counts, strict=True) if each == both]
        wanted = _wanted(seen, view.n, view.reference, view.settings)
        views[both] = replace(view, wanted=wanted)
    return [views[both] for both in counts]


def _rows_seen(metric: Metric, n: int, m: int, settings: Settings) -> tuple[int, int]:
    """How many of n generated and m reference rows a metric looks at."""
    if metric.passes not in ("balls", "recall"):
        return n, m
    theirs = min(m, settings.neighbour_reference or m)
    whole = settings.neighbour_precision == "float16" and metric.name in ("precision", "recall")
    if settings.neighbour_samples is None or whole:
        return n, theirs
    ours = min(n, m, settings.neighbour_samples)
    return ours, min(ours, theirs)


def _wanted(
    metrics: Sequence[Metric], n: int, reference: Reference | None, settings: Settings
) -> Wanted | None:
    """What all metrics together read off the passes over pairs."""
    apart = ("precision", "recall") if settings.neighbour_precision == "float16" else ()
    reading = {m.passes for m in metrics if m.name not in apart} - {None}
    if reference is None or prefers_moments(n, *reference.rows.shape):
        reading -= {"kernel:cubic"}
    if not reading:
        return None
    from piflow_bench.evaluation.pairs.passes import Wanted

    each = {
        "balls": Wanted(balls=True),
        "recall": Wanted(recall=True),
        "authentic": Wanted(authentic=True),
    }
    return reduce(
        Wanted.__or__,
        [each.get(r) or Wanted(frozenset({r.removeprefix("kernel:")})) for r in reading if r],
        Wanted(),
    )


def _score(
    metrics: Sequence[Metric], views: Sequence[Inputs], report: Callable[[int, int], None]
) -> list[MetricValue]:
    scored: dict[str, tuple[float, Sequence[float] | np.ndarray]] = {}
    results = []
    for number, (metric, inputs) in enumerate(zip(metrics, views, strict=True)):
        report(number, len(metrics))
        if metric.name not in scored:
            assert metric.compute is not None
            try:
                scored |= metric.compute(inputs)
            except ValueError as error:
                raise UserError(f"metric '{metric.name}': {error}") from error
        value, replicates = scored[metric.name]
        # One block is the whole sample: there is nothing left without it.
        kept = tuple(float(r) for r in replicates) if inputs.block_count > 1 else ()
        interval = jackknife_interval(value, kept, inputs.settings.confidence)
        designs = {PAIRS: inputs.strata, SUBSETS: inputs.subset_strata}
        strata = designs.get(metric.estimator)
        how = metric.estimator if strata is None else inputs.estimator(strata)
        results.append(MetricValue(metric.name, interval, len(inputs.blocks), kept, how))
    report(len(metrics), len(metrics))
    return results


def evaluate_features(
    generated: np.ndarray,
    reference: np.ndarray | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    generated_logits: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    reference_labels: np.ndarray | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Table of features ``(n, d)`` and ``(m, d)``, with the columns metric, value, ci_low, ci_high,
    n, estimator.

    Intervals are delete-block jackknife intervals of the metric's expectation at this n and this
    reference (NaN for spreads, and with ``intervals=False``). Arguments as for
    ``evaluate_with_replicates``.
    """
    rows = evaluate_with_replicates(
        generated,
        reference,
        metrics,
        generated_logits=generated_logits,
        labels=labels,
        reference_labels=reference_labels,
        **settings,
    )
    columns = ["metric", "value", "ci_low", "ci_high", "n", "estimator"]
    return pd.DataFrame([[getattr(row, c) for c in columns] for row in rows], columns=columns)


def _check_metrics(metrics: Sequence[str]) -> list[Metric]:
    known = all_metrics()
    asked: dict[str, Metric] = {}
    for name in [metrics] if isinstance(metrics, str) else metrics:
        if name not in known:
            raise UserError(f"unknown metric '{name}'; {nearest(name, list(known))}")
        metric = known[name]
        if metric.compute is None:
            needs = " and ".join(metric.needs)
            raise UserError(f"metric '{name}' cannot be computed from features: it needs {needs}")
        asked[name] = metric
        if metric.spread is not None:
            asked[metric.spread] = known[metric.spread]
    return list(asked.values())


def _left(inputs: Inputs) -> int:
    """How many samples a replicate is of, at least."""
    n = inputs.n
    return n - int(np.bincount(inputs.blocks).max()) if inputs.block_count > 1 else n


def _enough(left: int, inputs: Inputs) -> int:
    """The least n of which every replicate has so many samples."""
    if inputs.block_count == 1:
        return left
    return next(n for n in count(left + 1) if n - np.bincount(Design(n).blocks()).max() >= left)


def _check_count(name: str, inputs: Inputs) -> None:
    n, left, least = inputs.n, _left(inputs), _LEAST.get(name, 0)
    if left < least:
        hint = ", or intervals=false, which leaves no block out" if least <= n else ""
        raise UserError(
            f"metric '{name}' needs at least {least} samples, not {left} (n={n}): "
            f"n={_enough(least, inputs)} or more{hint}"
        )


def _check_needs(metric: Metric, inputs: Inputs) -> None:
    name, needs, n, s = metric.name, metric.needs, inputs.n, inputs.settings
    if "reference" in needs and inputs.reference is None:
        raise UserError(f"metric '{name}' needs reference features")
    if "reference" in needs and not len(inputs.ref.rows) and not metric.from_moments:
        enough = ", ".join(m.name for m in all_metrics().values() if m.from_moments)
        raise UserError(
            f"metric '{name}' needs reference images or features; statistics give only {enough}"
        )
    extras = inputs.extras
    for need, given, what in (
        ("logits", extras.logits, "generated_logits"),
        ("labels", extras.labels, "labels of the generated samples"),
        ("spatial", extras.spatial, "spatial features"),
        ("spatial", extras.reference_spatial, "spatial features or statistics of the reference"),
        ("teacher", extras.scores.get(name), "the teacher's samples for the same noise"),
        ("prompts", extras.scores.get(name), "the samples' prompts"),
        ("lpips", extras.pair_distances, "LPIPS between the samples of each class"),
    ):
        if need in needs and given is None:
            raise UserError(f"metric '{name}' needs {what}; see docs/evaluate.md")
    m = 0 if inputs.reference is None else len(inputs.reference.rows)
    if metric.passes == "kernel:directions" or name in _OF_DIRECTIONS:
        sides = {"generated": inputs.rows}
        if "reference" in needs:
            sides["reference"] = inputs.ref.rows
        for side, rows in sides.items():
            directed = rows.any(axis=1)
            if not directed.all():
                raise UserError(
                    f"metric '{name}': {side} row {int(np.argmin(directed))} is all zeros and has "
                    "no direction"
                )
    if name == "kid" and s.kid_subset_size > min(n, m):
        raise UserError(
            f"setting kid_subset_size={s.kid_subset_size} exceeds the {min(n, m)} samples; "
            f"set kid_subset_size={min(n, m)} or less, or use 'kid_exact'"
        )
    left = _left(inputs)
    if metric.passes in ("balls", "recall"):
        points = min(m, left if name == "recall" else m)
        if s.k >= points:
            hint = ", or intervals=false, which leaves no block out" if s.k < n else ""
            mend = f": n={_enough(s.k + 1, inputs)} or more{hint}" if points == left < n else ""
            raise UserError(
                f"metric '{name}': setting k={s.k} needs more than {s.k} points to choose from, "
                f"not {points} (n={n}, {m} reference rows){mend}"
            )
    if name == "is" and s.is_splits > left:
        hint = "; intervals=false leaves no block out" if s.is_splits <= n else ""
        raise UserError(
            f"metric 'is': setting is_splits={s.is_splits} exceeds the {left} samples per "
            f"replicate (n={n}){hint}"
        )
