"""Scores of feature sets: values, delete-block replicates and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation import distances, diversity, neighbours, projections
from piflow_bench.evaluation.classes import inception_score
from piflow_bench.evaluation.metrics import METRICS
from piflow_bench.evaluation.moments import Moments, block_moments, merge_all
from piflow_bench.evaluation.pairs import (
    PairSums,
    block_sums,
    rbf_tile,
    split,
    u_statistic,
    v_statistic,
)
from piflow_bench.evaluation.polynomial import cubic_sums
from piflow_bench.evaluation.reference import Reference
from piflow_bench.evaluation.settings import (
    Settings,
    check_blocks,
    check_features,
    make_settings,
)
from piflow_bench.evaluation.uncertainty import jackknife_interval

DEFAULT_METRICS = ("fd", "kid_exact", "precision", "recall", "density", "coverage", "vendi")


@dataclass(frozen=True)
class MetricValue:
    """A metric of one sample set with its interval; ``replicates``: delete-one-block values."""

    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    replicates: tuple[float, ...]


@dataclass(frozen=True)
class _Inputs:
    generated: np.ndarray
    reference: Reference | None
    logits: np.ndarray | None
    labels: np.ndarray | None
    blocks: np.ndarray
    settings: Settings

    @property
    def ref(self) -> Reference:
        assert self.reference is not None
        return self.reference

    @property
    def block_count(self) -> int:
        return int(self.blocks.max()) + 1


_Scored = dict[str, tuple[float, Sequence[float] | np.ndarray]]


def _from_sums(
    sums: PairSums, statistic: Callable[[PairSums, int | None], float], scale: float
) -> tuple[float, list[float]]:
    left = [scale * statistic(sums, b) for b in range(len(sums.counts))]
    return scale * statistic(sums, None), left


def _fd(inputs: _Inputs) -> _Scored:
    parts = block_moments(inputs.generated, inputs.blocks)
    whole, reference = merge_all(parts), inputs.ref.frechet()
    left = [reference.distance(whole.without(part)) for part in parts]
    return {"fd": (reference.distance(whole), left)}


def _fd_infinity(inputs: _Inputs) -> _Scored:
    reference, seed = inputs.ref.frechet(), inputs.settings.fd_infinity_seed
    x, blocks = inputs.generated, inputs.blocks
    order = np.random.RandomState(seed).permutation(len(x))
    # One order for all: a fresh permutation per replicate would pass for sampling error.
    left = [
        distances.fd_infinity(x, reference, order=order[blocks[order] != b])
        for b in range(inputs.block_count)
    ]
    return {"fd_infinity": (distances.fd_infinity(x, reference, order=order), left)}


def _kid(inputs: _Inputs) -> _Scored:
    """Replicates keep the drawn subsets and take the block's members out of each of them."""
    s, x, y = inputs.settings, inputs.generated, inputs.ref.features
    draws = distances.kid_draws(len(x), len(y), s.kid_subsets, s.kid_subset_size, s.kid_seed)
    sums = distances.kid_subset_sums(x, y, inputs.blocks, draws)
    values = [u_statistic(each) for each in sums]
    left = [
        float(np.mean([u_statistic(each, b) for each in sums])) for b in range(inputs.block_count)
    ]
    return {"kid": (float(np.mean(values)), left), "kid_std": (float(np.std(values)), ())}


def _kid_exact(inputs: _Inputs) -> _Scored:
    facts = inputs.ref.cubic(len(inputs.generated))
    sums = cubic_sums(inputs.generated, inputs.blocks, inputs.ref.features, facts)
    return {"kid_exact": _from_sums(sums, u_statistic, 1.0)}


def _cmmd(inputs: _Inputs) -> _Scored:
    parts = split(distances.unit_rows(inputs.generated), inputs.blocks)
    unit, tile = distances.unit_rows(inputs.ref.features), rbf_tile(distances.CMMD_SIGMA)
    sums = block_sums(parts, unit, inputs.ref.cmmd(), tile)
    return {"cmmd": _from_sums(sums, v_statistic, distances.CMMD_SCALE)}


def _energy(inputs: _Inputs) -> _Scored:
    known = inputs.ref.energy(len(inputs.generated))
    sums = distances.energy_sums(inputs.generated, inputs.blocks, inputs.ref.features, known)
    return {"energy_distance": _from_sums(sums, u_statistic, -1.0)}


def _mind(inputs: _Inputs) -> _Scored:
    s = inputs.settings
    return {
        "mind": projections.mind_replicates(
            inputs.generated, inputs.ref.features, s.mind_directions, s.mind_seed, inputs.blocks
        )
    }


def _sliced(inputs: _Inputs) -> _Scored:
    s, x = inputs.settings, inputs.generated
    chosen = projections.unit_directions(s.sliced_directions, x.shape[1], s.sliced_seed)
    square, left = projections.sliced_squares(x, inputs.ref.features, chosen, inputs.blocks)
    return {"sliced_wasserstein": (float(np.sqrt(square)), np.sqrt(left))}


def _inception(inputs: _Inputs) -> _Scored:
    s = inputs.settings
    assert inputs.logits is not None
    mean, spread = inception_score(inputs.logits, s.is_splits, s.is_shuffle, s.is_seed)
    left = [
        inception_score(inputs.logits, s.is_splits, s.is_shuffle, s.is_seed, inputs.blocks == b)[0]
        for b in range(inputs.block_count)
    ]
    return {"is": (mean, left), "is_std": (spread, ())}


def _balls(inputs: _Inputs, recall: bool) -> _Scored:
    s, rows = inputs.settings, inputs.settings.neighbour_reference
    found = neighbours.neighbour_metrics(
        inputs.generated,
        inputs.ref.features[:rows],
        s.k,
        s.comparator,
        inputs.blocks,
        inputs.ref.squared_radii(s.k, rows, s.block),
        s.block,
        recall,
    )
    return {name: (each.value, each.replicates) for name, each in found.items()}


def _authpct(inputs: _Inputs) -> _Scored:
    block = inputs.settings.block
    own = inputs.ref.squared_radii(1, None, block)
    found = neighbours.authenticity(
        inputs.generated, inputs.ref.features, inputs.blocks, own, block
    )
    return {"authpct": (found.value, found.replicates)}


def _vendi(inputs: _Inputs) -> _Scored:
    return {"vendi": diversity.vendi_replicates(inputs.generated, inputs.blocks)}


def _pairwise(inputs: _Inputs) -> _Scored:
    return {
        "pairwise_distance": diversity.pairwise_replicates(
            inputs.generated, inputs.labels, inputs.blocks
        )
    }


_SCORES: dict[str, Callable[[_Inputs], _Scored]] = {
    "fd": _fd,
    "fd_infinity": _fd_infinity,
    "kid": _kid,
    "kid_std": _kid,
    "kid_exact": _kid_exact,
    "cmmd": _cmmd,
    "mind": _mind,
    "is": _inception,
    "is_std": _inception,
    "precision": lambda inputs: _balls(inputs, recall=False),
    "density": lambda inputs: _balls(inputs, recall=False),
    "coverage": lambda inputs: _balls(inputs, recall=False),
    "recall": lambda inputs: _balls(inputs, recall=True),
    "authpct": _authpct,
    "vendi": _vendi,
    "pairwise_distance": _pairwise,
    "energy_distance": _energy,
    "sliced_wasserstein": _sliced,
}
_SPREADS = {"kid": "kid_std", "is": "is_std"}

FROM_MOMENTS = ("fd", "fd_infinity")
"""Metrics for which the reference's mean and covariance suffice."""

FEATURE_METRICS: tuple[str, ...] = tuple(_SCORES)
"""Names that ``evaluate_features`` computes; the others of ``METRICS`` need more than features."""


def evaluate_with_replicates(
    generated: np.ndarray,
    reference: np.ndarray | None,
    metrics: Sequence[str],
    *,
    generated_logits: np.ndarray | None = None,
    generated_labels: np.ndarray | None = None,
    reference_moments: Moments | None = None,
    block_ids: np.ndarray | None = None,
    **settings: Any,
) -> list[MetricValue]:
    """Metrics of generated features ``(n, d)`` against reference features ``(m, d)``.

    ``generated_logits`` ``(n, classes)`` for the Inception score; ``generated_labels`` ``(n,)``
    make ``pairwise_distance`` a mean over classes; ``reference_moments`` take the place of the
    reference features' own in Fréchet distances, and need no features beside them; ``block_ids``
    ``(n,)`` are the blocks of the jackknife (default: 20 contiguous ones; values that are to be
    paired need the same ids).
    ``settings``: the fields of ``Settings``. Order as asked for, each spread after its mean.
    Raises UserError for unknown names, impossible values and unusable features.
    """
    chosen = make_settings(settings)
    names = _check_metrics(metrics)
    x = check_features(generated, "generated")
    y = None if reference is None else check_features(reference, "reference")
    columns = {0 if y is None else y.shape[1]} | {
        0 if reference_moments is None else len(reference_moments.mean)
    }
    for other in columns - {0, x.shape[1]}:
        raise UserError(
            f"generated features have {x.shape[1]} columns and reference features {other}: "
            "both must come from one extractor"
        )
    logits = None if generated_logits is None else check_features(generated_logits, "logits")
    for given, what in (
        (logits, "generated_logits"),
        (generated_labels, "generated_labels"),
        (block_ids, "block_ids"),
    ):
        if given is not None and len(given) != len(x):
            raise UserError(f"{what} has {len(given)} rows for {len(x)} generated samples")
    labels = None if generated_labels is None else np.asarray(generated_labels)
    blocks = check_blocks(block_ids, len(x))
    held = None
    if y is not None or reference_moments is not None:
        held = Reference(np.empty((0, x.shape[1])) if y is None else y, reference_moments)
    inputs = _Inputs(x, held, logits, labels, blocks, chosen)
    for name in names:
        _check_needs(name, inputs)
    return _score(names, inputs)


def _score(names: list[str], inputs: _Inputs) -> list[MetricValue]:
    scored: _Scored = {}
    # Recall's pass gives the other three as well, so it comes first where it is wanted.
    for name in sorted(names, key=lambda each: each != "recall"):
        if name not in scored:
            try:
                scored |= _SCORES[name](inputs)
            except ValueError as error:
                raise UserError(f"metric '{name}': {error}") from error
    results = []
    for name in names:
        value, replicates = scored[name]
        kept = tuple(float(r) for r in replicates)
        interval = jackknife_interval(value, kept, inputs.settings.confidence)
        results.append(
            MetricValue(name, float(value), interval.low, interval.high, len(inputs.blocks), kept)
        )
    return results


def evaluate_features(
    generated: np.ndarray,
    reference: np.ndarray | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    generated_logits: np.ndarray | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Table with columns metric, value, ci_low, ci_high, n of features ``(n, d)`` and ``(m, d)``.

    Intervals are delete-block jackknife intervals of the metric's expectation at this n and this
    reference (NaN for spreads). Arguments as for ``evaluate_with_replicates``.
    """
    rows = evaluate_with_replicates(
        generated, reference, metrics, generated_logits=generated_logits, **settings
    )
    columns = ["metric", "value", "ci_low", "ci_high", "n"]
    return pd.DataFrame([[getattr(row, c) for c in columns] for row in rows], columns=columns)


def _check_metrics(metrics: Sequence[str]) -> list[str]:
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    names: list[str] = []
    for name in asked:
        if name not in METRICS:
            raise UserError(f"unknown metric '{name}'; {nearest(name, list(METRICS))}")
        if name not in _SCORES:
            needs = " and ".join(METRICS[name].needs)
            raise UserError(f"metric '{name}' cannot be computed from features: it needs {needs}")
        names += [name, _SPREADS[name]] if name in _SPREADS else [name]
    return list(dict.fromkeys(names))


def _check_needs(name: str, inputs: _Inputs) -> None:
    needs, n, s = METRICS[name].needs, len(inputs.generated), inputs.settings
    if "reference" in needs and inputs.reference is None:
        raise UserError(f"metric '{name}' needs reference features")
    if "reference" in needs and not len(inputs.ref.features) and name not in FROM_MOMENTS:
        raise UserError(
            f"metric '{name}' needs reference images or features; statistics give only "
            f"{', '.join(FROM_MOMENTS)}"
        )
    if "logits" in needs and inputs.logits is None:
        raise UserError(f"metric '{name}' needs generated_logits")
    m = 0 if inputs.reference is None else len(inputs.reference.features)
    if name == "kid" and s.kid_subset_size > min(n, m):
        raise UserError(
            f"setting kid_subset_size={s.kid_subset_size} exceeds the {min(n, m)} samples; "
            f"set kid_subset_size={min(n, m)} or less, or use 'kid_exact'"
        )
    left = n - int(np.bincount(inputs.blocks).max())
    if name in ("precision", "recall", "density", "coverage"):
        points = min(m, s.neighbour_reference or m, left if name == "recall" else m)
        if s.k >= points:
            raise UserError(
                f"setting k={s.k} needs more than {s.k} points to choose from, not {points}"
            )
    if name == "is" and s.is_splits > left:
        raise UserError(f"setting is_splits={s.is_splits} exceeds the {left} samples per replicate")
