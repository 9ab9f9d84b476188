"""Settings of the metrics and the checks of what a user hands in."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.design import Design


@dataclass(frozen=True)
class Settings:
    """Settings of the metrics; all but those of ``AFFECT_NO_VALUE`` are part of a protocol."""

    k: int = 3
    comparator: str = "le"
    neighbour_reference: int | None = None
    """Precision, recall, density and coverage use only the first this-many reference rows."""
    neighbour_precision: str = "float64"
    """float64, or float16: ADM's distances, for its precision and recall (see ``adm.py``)."""
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    kid_seed: int = 2020
    is_splits: int = 10
    is_shuffle: bool = True
    is_seed: int = 2020
    mind_directions: int = 1000
    mind_seed: int = 2020
    sliced_directions: int = 128
    sliced_seed: int = 2020
    fd_infinity_seed: int = 2020
    clip_scale: str = "cosine"
    """cosine, hessel (2.5 max(cos, 0)) or percent (100 max(cos, 0))."""
    block: int | None = None
    """Rows of a strip of pairwise distances: memory, never values."""
    device: str = "cpu"
    """Where pairwise distances are computed."""
    intervals: bool = True
    confidence: float = 0.95


AFFECT_NO_VALUE = ("block", "device", "intervals", "confidence")
_CHOICES = {
    "comparator": ("le", "lt"),
    "neighbour_precision": ("float64", "float16"),
    "clip_scale": ("cosine", "hessel", "percent"),
}
_AT_LEAST = {
    "k": 1,
    "neighbour_reference": 2,
    "kid_subsets": 1,
    "kid_subset_size": 2,
    "is_splits": 1,
    "mind_directions": 1,
    "sliced_directions": 1,
    "block": 1,
}


def make_settings(settings: dict[str, Any]) -> Settings:
    """Settings from keywords; UserError names an unknown key's nearest or a value's limits."""
    known = [field.name for field in fields(Settings)]
    for key, value in settings.items():
        if key == "generated_labels":
            raise UserError("generated_labels is called labels now")
        if key not in known:
            raise UserError(f"unknown metric setting '{key}'; {nearest(key, known)}")
        default = getattr(Settings, key)
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        number = isinstance(default, int) and not isinstance(default, bool)
        if number or (default is None and value is not None):
            if not whole or value < _AT_LEAST.get(key, 0):
                raise UserError(
                    f"setting {key}={value!r} must be a whole number >= {_AT_LEAST.get(key, 0)}"
                )
        elif isinstance(default, bool) and not isinstance(value, bool):
            raise UserError(f"setting {key}={value!r} must be true or false")
    made = Settings(**settings)
    for key, choices in _CHOICES.items():
        if getattr(made, key) not in choices:
            valid = ", ".join(f"'{each}'" for each in choices)
            raise UserError(f"setting {key}={getattr(made, key)!r} must be one of {valid}")
    if not isinstance(made.confidence, float) or not 0.0 < made.confidence < 1.0:
        raise UserError(f"setting confidence={made.confidence!r} must lie between 0 and 1")
    return made


def check_features(features: np.ndarray, what: str) -> np.ndarray:
    """Float64 features ``(n, d)``; UserError for a wrong shape, dtype or non-finite rows."""
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
    return np.ascontiguousarray(x, dtype=np.float64)


def check_blocks(block_ids: np.ndarray | None, design: Design) -> np.ndarray:
    """Block ids ``(n,)`` renumbered 0..g-1; None gives those of the design."""
    if block_ids is None:
        return design.blocks()
    ids = np.unique(np.asarray(block_ids), return_inverse=True)[1].ravel()
    if ids.max() < 1:
        raise UserError("block_ids name one block only: a jackknife needs at least 2")
    return ids
