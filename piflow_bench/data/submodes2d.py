"""Two classes of four sub-modes each, common and rare: whether rare ones lose share can be seen."""

from __future__ import annotations

import torch

from piflow_bench.contracts.data import Dataset, DatasetPlugin, Modes
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.data import closed_form

NAME = "submodes2d"
STD = 0.1
_AROUND = torch.tensor([[0.0, 0.7], [0.7, 0.0], [0.0, -0.7], [-0.7, 0.0]], dtype=torch.float64)
_CENTRES = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
MEANS = _CENTRES[:, None] + _AROUND
"""``(classes, sub-modes, 2)``: nearest ones are at least six standard deviations apart."""
SHARES = torch.tensor([[0.6, 0.25, 0.1, 0.05], [0.25, 0.6, 0.05, 0.1]], dtype=torch.float64)
"""Of the sub-modes in their class, ``(classes, sub-modes)``; classes are equal."""
CLASSES = len(MEANS)

MODES = Modes(MEANS.flatten(0, 1).numpy(), STD, SHARES.flatten().numpy() / CLASSES)
TRUTH = closed_form.class_truth(NAME, MEANS, STD, MODES, SHARES)


class SubModes2d(DatasetPlugin):
    """Two classes of common and rare sub-modes in the plane, with every class's exact velocity."""

    space = "points"

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Exact samples; nothing of it is worth a GPU."""
        definition = f"{MEANS.tolist()} {SHARES.tolist()} {STD}"
        return closed_form.dataset(NAME, TRUTH, definition, space, place, CLASSES)
