"""What the harness knows of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from piflow_bench.condition import Condition
from piflow_bench.teacher import Teacher


@dataclass(frozen=True)
class Modes:
    """The true modes of a distribution in the plane."""

    means: np.ndarray
    std: float
    weights: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Real samples, conditions by sample index, the teacher, and how samples are looked at.

    ``train`` and ``test`` are float32 ``(n, *shape)``; images lie in [-1, 1]. ``conditions(seed,
    indices)`` gives the conditions of samples by index alone. ``extractors`` map samples to
    float64 features ``(n, d)``; the first is the primary one. ``logits`` (optional) come from a
    network that gives no features, for class accuracy.
    """

    name: str
    kind: str
    """images | points."""
    shape: tuple[int, ...]
    train: Tensor
    train_condition: Condition
    test: Tensor
    test_condition: Condition
    conditions: Callable[[int, Sequence[int]], Condition]
    teacher: Callable[[], Teacher]
    fresh_network: Callable[[], nn.Module]
    extractors: Mapping[str, Callable[[Tensor], np.ndarray]]
    digest: str
    """sha256 of the data, or of the definition of a closed-form distribution."""
    judge: Callable[[Tensor], np.ndarray] | None = None
    """Class logits ``(n, classes)`` from a network independent of every extractor."""
    modes: Modes | None = None
    draw: Callable[[int, int], Tensor] | None = None
    """Fresh exact samples ``draw(seed, n)``, for closed-form distributions."""
    notes: Mapping[str, Any] = field(default_factory=dict)
