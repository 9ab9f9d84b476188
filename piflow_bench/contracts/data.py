"""What the harness knows of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.plugin import Place, Plugin
from piflow_bench.contracts.space import Space, SpacePlugin
from piflow_bench.laws import BY_PROMPT, LAWS
from piflow_bench.randomness import TrainingRandom


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
class Truth:
    """A distribution whose closed form is known."""

    velocity: Callable[[Tensor, Tensor], Tensor]
    """The exact velocity ``u(x, t)`` of its flow: ``(B, D), (B,) -> (B, D)``."""
    draw: Callable[[int, int], Tensor]
    """Fresh exact samples ``draw(seed, n)``."""
    modes: Modes | None = None
    of_class: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """The exact velocity ``u(x, t, labels)`` of each class, of all for the null label."""
    draw_labels: Callable[[int, int], Tensor] | None = None
    """The classes ``(n,)`` of what ``draw`` gives."""


@dataclass(frozen=True)
class Dataset:
    """Real samples in a space, their conditions, and the conditions of samples by their index.

    ``train`` and ``test`` are float32 ``(n, *shape)``; pixels lie in [-1, 1]. ``conditions(seed,
    indices)`` gives the conditions of samples by index alone.
    """

    name: str
    space: Space
    train: Tensor
    train_condition: Condition
    test: Tensor
    test_condition: Condition
    conditions: Callable[[int, Sequence[int]], Condition]
    digest: str
    """sha256 of the data, or of the definition of a closed-form distribution."""
    rows: Rows | None = None
    """Training samples that are read as they are needed; None: ``train``."""
    test_rows: Rows | None = None
    """Held-out samples that are read as they are needed; None: ``test``."""
    reference: Path | None = None
    """A file of the real reference, in place of held-out samples."""
    truth: Truth | None = None
    label_law: str | None = None
    """By which ``conditions`` gives labels: "balanced" (every class the same number in any first n,
    up to 1), "uniform" (each drawn for itself) or "as data"; None without labels, or not stated.
    Intervals and unbiased pair statistics depend on it."""
    cautions: tuple[str, ...] = ()
    """What a user should know of the data, a line each."""

    def __post_init__(self) -> None:
        if self.label_law not in (None, BY_PROMPT, *LAWS):
            raise ValueError(f"label_law={self.label_law!r} must be one of {', '.join(LAWS)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample, (C, *spatial)."""
        return self.space.shape

    @property
    def training_rows(self) -> Rows:
        """Where training batches come from."""
        return self.rows or TensorRows(self.train)

    @property
    def held_out(self) -> Rows:
        """Samples that no training sees."""
        return self.test_rows or TensorRows(self.test)

    def memorised(self, n: int) -> Tensor:
        """``n`` training samples, evenly spread over the training set (all, if there are fewer)."""
        return self.training_rows.take(self._spread(n), None)

    def memorised_condition(self, n: int) -> Condition:
        """The conditions of ``memorised(n)``; of the whole training set for 0."""
        return self.train_condition[self._spread(n)] if n else self.train_condition

    def _spread(self, n: int) -> Tensor:
        count = len(self.training_rows)
        return torch.linspace(0, count - 1, min(n, count)).round().long()


class DatasetPlugin(Plugin):
    """Real samples and their conditions, from files or a definition."""

    kind: ClassVar[str] = "dataset"
    space: ClassVar[str] = "pixels"
    """The space its samples are in where ``space=`` names no other."""

    @property
    def judge(self) -> str | None:
        """An extractor whose logits judge the class of generated samples; best one of its own."""
        return None

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """The data, in a space.

        Raises:
            UserError: naming the setting and what is wrong with it.
        """
        raise NotImplementedError("a dataset must define load()")
