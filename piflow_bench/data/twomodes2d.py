"""Two classes of two modes each: whether a student keeps both modes of a class can be counted."""

from __future__ import annotations

import numpy as np
import torch

from piflow_bench.contracts.data import Dataset, DatasetPlugin, Modes
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.data import closed_form

NAME = "twomodes2d"
STD = 0.12
MEANS = torch.tensor([[[-1.0, 0.8], [-1.0, -0.8]], [[1.0, 0.8], [1.0, -0.8]]], dtype=torch.float64)
"""``(classes, modes, 2)``: a class lies left or right, its modes above and below."""
CLASSES = len(MEANS)

_FLAT = MEANS.flatten(0, 1).numpy()
MODES = Modes(_FLAT, STD, np.full(len(_FLAT), 1 / len(_FLAT)))
TRUTH = closed_form.class_truth(NAME, MEANS, STD, MODES)


class TwoModes2d(DatasetPlugin):
    """Two classes of two modes each in the plane, with the exact velocity of every class."""

    space = "points"

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Exact samples; nothing of it is worth a GPU."""
        return closed_form.dataset(NAME, TRUTH, f"{MEANS.tolist()} {STD}", space, place, CLASSES)
