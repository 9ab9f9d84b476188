"""How surely a picture shows its class, to a linear look at its edges.

A logistic regression on histograms of oriented gradients (Dalal and Triggs, CVPR 2005, without
their overlapping blocks) of training pictures. It shares nothing with the networks that evaluate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from piflow_bench.contracts.condition import Classes, Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.reward import RewardPlugin, Score
from piflow_bench.settings import setting

SIDE = 64
"""Pixels of a picture's shorter side that are looked at, at least, where it has as many."""
LOOK = 100
"""Training pictures that are looked at in one go."""


@dataclass(frozen=True)
class Config:
    """Settings of the class probe."""

    cells: int = setting(4, least=1, most=16)  # a picture is so many cells wide and high
    directions: int = setting(8, least=2, most=36)  # of gradients, in each
    pictures: int = setting(4000, least=2)  # of the training set it learns from, at most
    strength: float = setting(100.0, above=0)  # the inverse of its penalty on large weights


def _no_larger(grey: np.ndarray, side: int) -> np.ndarray:
    """Pictures ``(b, h, w)`` by the means of square blocks, where they are twice ``side`` wide."""
    count, height, width = grey.shape
    block = max(min(height, width) // side, 1)
    rows, columns = height // block, width // block
    cut = grey[:, : rows * block, : columns * block]
    return cut.reshape(count, rows, block, columns, block).mean((2, 4))


def gradients(pictures: np.ndarray, cells: int, directions: int) -> np.ndarray:
    """Histograms ``(b, cells^2 * directions)`` of pictures ``(b, h, w, c)`` uint8, of length 1.

    Colours are averaged; a gradient counts by its size, in the bin of its direction.
    """
    grey = _no_larger(pictures.astype(np.float64).mean(3), SIDE)
    down, across = np.gradient(grey, axis=(1, 2))
    size, angle = np.hypot(down, across), np.arctan2(down, across)
    bins = (angle / (2 * np.pi) * directions).round().astype(int) % directions
    count, height, width = grey.shape
    row, column = np.arange(height) * cells // height, np.arange(width) * cells // width
    cell = np.arange(count)[:, None, None] * cells**2 + row[:, None] * cells + column
    place = (cell * directions + bins).ravel()
    summed = np.bincount(place, size.ravel(), count * cells**2 * directions).reshape(count, -1)
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-9)


class ClassProbe(RewardPlugin):
    """Log-probability of a picture's class, of a logistic regression on its edges."""

    Config = Config
    rule = "log-probability of the class, of a logistic regression on oriented gradients"

    def lacks(self, dataset: Dataset) -> str | None:
        """Labels, of which there must be two."""
        given = dataset.train_condition
        if not isinstance(given, Classes):
            return "class labels"
        seen = given.labels[self._rows(dataset)]
        return None if len(seen.unique()) > 1 else "a second class in what it learns from"

    def _rows(self, dataset: Dataset) -> Tensor:
        """Those that it learns from, spread over the training set."""
        count = len(dataset.train_condition)
        return torch.linspace(0, count - 1, min(self.config.pictures, count)).round().long()

    def load(self, dataset: Dataset, place: Place) -> Score:
        """The regression, fitted to training pictures that are spread over the data."""
        c, given = self.config, dataset.train_condition
        assert isinstance(given, Classes) and dataset.space.pictures is not None
        rows = self._rows(dataset)
        seen = [
            gradients(
                dataset.space.pictures(dataset.training_rows.take(part, None)),
                c.cells,
                c.directions,
            )
            for part in rows.split(LOOK)
        ]
        labels = given.labels[rows].cpu().numpy()
        model = LogisticRegression(C=c.strength, max_iter=500)
        model.fit(np.concatenate(seen), labels)
        place_of = np.full(given.count + 1, -1)
        place_of[model.classes_] = np.arange(len(model.classes_))

        def score(pictures: np.ndarray, condition: Condition) -> np.ndarray:
            assert isinstance(condition, Classes)
            wanted = place_of[condition.labels.cpu().numpy()]
            found = model.predict_log_proba(gradients(pictures, c.cells, c.directions))
            # A class that it has not seen says nothing of its pictures.
            own = found[np.arange(len(found)), np.maximum(wanted, 0)]
            return np.where(wanted < 0, 0.0, own).astype(np.float32)

        return score
