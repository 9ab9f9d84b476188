"""Settings of the metrics and the checks of what a user hands in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.design import Design
from piflow_bench.settings import DEVICE, build_dataclass, setting


@dataclass(frozen=True)
class Settings:
    """Settings of the metrics; all but those of ``AFFECT_NO_VALUE`` are part of a protocol."""

    k: int = setting(3, least=1)
    comparator: str = setting("le", choices=("le", "lt"))
    neighbour_reference: int | None = setting(None, least=2)
    """Precision, recall, density and coverage look at this many reference rows (``subsets``)."""
    neighbour_samples: int | None = setting(None, least=2)
    """The same of both sides, which then are equally many: no more than the smaller one has."""
    neighbour_precision: str = setting("float64", choices=("float64", "float16"))
    """float16: ADM's distances, for its precision and recall (see ``adm.py``), which look at all
    samples, whatever ``neighbour_samples`` says."""
    kid_subsets: int = setting(100, least=1)
    kid_subset_size: int = setting(1000, least=2)
    kid_seed: int = setting(2020, least=0)
    is_splits: int = setting(10, least=1)
    is_shuffle: bool = True
    is_seed: int = setting(2020, least=0)
    mind_directions: int = setting(1000, least=1)
    mind_seed: int = setting(2020, least=0)
    sliced_directions: int = setting(128, least=1)
    sliced_seed: int = setting(2020, least=0)
    fd_infinity_seed: int = setting(2020, least=0)
    clip_scale: str = setting("cosine", choices=("cosine", "hessel", "percent"))
    """cosine, hessel (2.5 max(cos, 0)) or percent (100 max(cos, 0))."""
    block: int | None = setting(None, least=1)
    """Rows of a strip of pairwise distances: memory, never values."""
    device: str = setting("cpu", **DEVICE)
    """Where pairwise distances are computed."""
    intervals: bool = True
    confidence: float = setting(0.95, above=0, below=1)
    of_metrics: dict[str, Any] = setting(factory=dict)
    """Settings of single metrics, by their names: see ``Metric.Config``."""


AFFECT_NO_VALUE = ("block", "device", "intervals", "confidence")


def make_settings(settings: Mapping[str, Any], where: str = "") -> Settings:
    """Settings from keywords; UserError names a key below ``where`` and what it may be."""
    if "generated_labels" in settings:
        raise UserError("generated_labels is called labels now")
    if "clip_weights" in settings:
        raise UserError("clip_weights=PATH is called scorers={'clip_score': PATH} now")
    from piflow_bench.evaluation.metrics.metric import all_metrics

    known = all_metrics()
    own = {n: known[n].Config for n, v in settings.items() if n in known and isinstance(v, Mapping)}
    made = {
        name: build_dataclass(config, settings[name], f"{where}.{name}" if where else name)
        for name, config in own.items()
        if config is not None
    }
    shared = {name: value for name, value in settings.items() if name not in made}
    return build_dataclass(Settings, {**shared, **({"of_metrics": made} if made else {})}, where)


def check_features(features: np.ndarray, what: str) -> np.ndarray:
    """Features ``(n, d)``, float32 or float64.

    Raises:
        UserError: for a wrong shape, no numbers, or rows that are not finite.
    """
    x = np.asarray(features)
    if x.ndim != 2 or x.shape[1] == 0:
        raise UserError(f"{what} features must have shape (n, d), not {x.shape}")
    if len(x) < 2:
        raise UserError(f"{what} features: {len(x)} sample(s), at least 2 are needed")
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise UserError(f"{what} features must be real numbers, not {x.dtype}")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise UserError(
            f"{what} features: {int(bad.sum())} of {len(x)} rows are not finite, "
            f"the first is row {int(np.argmax(bad))}"
        )
    # Writeable because torch warns of arrays that are not, such as files mapped to be read.
    return np.require(x, np.float32 if x.dtype == np.float32 else np.float64, ["C", "W"])


def check_blocks(block_ids: np.ndarray | None, design: Design) -> np.ndarray:
    """Block ids ``(n,)`` renumbered 0..g-1; None gives those of the design."""
    if block_ids is None:
        return design.blocks()
    ids = np.unique(np.asarray(block_ids), return_inverse=True)[1].ravel()
    if ids.max() < 1:
        raise UserError("block_ids name one block only: a jackknife needs at least 2")
    return ids
