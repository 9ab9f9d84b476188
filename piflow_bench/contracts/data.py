"""What the harness knows of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.randomness import TrainingRandom

LAWS = ("balanced", "uniform", "as data")
"""How samples get their labels: in turn; each drawn for itself; as the data have them."""


class Rows(Protocol):
    """Training samples that are read as they are needed."""

    def __len__(self) -> int: ...
    def take(self, rows: Tensor, random: TrainingRandom | None) -> Tensor:
        """Samples x0 ``(B, *shape)`` of the given rows ``(B,)``.

        Draws that belong to reading (a mirrored view, a latent's own noise) come from ``random``;
        without it the plain view and the mean.
        """
        ...


@dataclass(frozen=True)
class TensorRows:
    """Training samples ``(n, *shape)`` in memory."""

    x0: Tensor

    def __len__(self) -> int:
        return len(self.x0)

    def take(self, rows: Tensor, random: TrainingRandom | None = None) -> Tensor:
        """The rows."""
        return self.x0[rows]


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
    features ``(n, d)``, or to several outputs by name (see ``outputs``).
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
    extractor_digests: Mapping[str, str] = field(default_factory=dict)
    """What decides the outputs of every extractor: its weights' digest and its rule."""
    judge_digest: str = ""
    """The same of the judge."""
    identity: Mapping[str, Any] | None = None
    """Settings that determine results, where others are paths; None: all settings do."""
    rows: Rows | None = None
    """Training samples that are read as they are needed; None: ``train``."""
    outputs: tuple[str, ...] = ("features",)
    """What every extractor gives: features, and perhaps logits and spatial features."""
    decode: Callable[[Tensor], np.ndarray] | None = None
    """Samples as images ``(n, h, w, 3)`` uint8, where samples are latents."""
    reference: Callable[[str], dict[str, np.ndarray]] | None = None
    """Outputs and moments of the real reference under an extractor, where it is a file."""
    chunk: int = 2000
    """Samples that extractors are given at once."""
    judge: Callable[[Tensor], np.ndarray] | None = None
    """Class logits ``(n, classes)`` from a network independent of every extractor."""
    modes: Modes | None = None
    draw: Callable[[int, int], Tensor] | None = None
    """Fresh exact samples ``draw(seed, n)``, for closed-form distributions."""
    label_law: str | None = None
    """By which ``conditions`` gives labels: "balanced" (every class the same number in any first n,
    up to 1), "uniform" (each drawn for itself) or "as data"; None without labels, or not stated.
    Intervals and unbiased pair statistics depend on it."""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label_law is not None and self.label_law not in LAWS:
            raise ValueError(f"label_law={self.label_law!r} must be one of {', '.join(LAWS)}")

    @property
    def training_rows(self) -> Rows:
        """Where training batches come from."""
        return self.rows or TensorRows(self.train)

    def images(self, x: Tensor) -> np.ndarray:
        """Samples ``(n, *shape)`` as images ``(n, h, w, c)`` uint8."""
        if self.decode is not None:
            return self.decode(x)
        return ((x.clip(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()

    def memorised(self, n: int) -> Tensor:
        """``n`` training samples, evenly spread over the training set (all, if there are fewer)."""
        return self.training_rows.take(self._spread(n), None)

    def memorised_condition(self, n: int) -> Condition:
        """The conditions of ``memorised(n)``; of the whole training set for 0."""
        return self.train_condition[self._spread(n)] if n else self.train_condition

    def _spread(self, n: int) -> Tensor:
        count = len(self.training_rows)
        return torch.linspace(0, count - 1, min(n, count)).round().long()
