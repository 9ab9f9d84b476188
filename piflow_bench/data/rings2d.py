"""Eight rings in the plane, a class each: thin modes that a student must not close or merge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from piflow_bench.contracts.data import Dataset, DatasetPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.data import closed_form

NAME = "rings2d"
RINGS, BEADS = 8, 24
CENTRES, RADIUS, STD = 1.3, 0.3, 0.04
"""Distance of the rings' centres from the origin, their radius, and that of a bead."""


def _circle(count: int, radius: float) -> Tensor:
    """Points ``(count, 2)`` evenly on a circle."""
    angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


MEANS = _circle(RINGS, CENTRES)[:, None] + _circle(BEADS, RADIUS)
"""``(rings, beads, 2)``: beads are two standard deviations apart, so that they run together."""

TRUTH = closed_form.class_truth(NAME, MEANS, STD)


class Rings2d(DatasetPlugin):
    """Eight rings in the plane, a class each, with the exact velocity of every class."""

    space = "points"

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Exact samples; nothing of it is worth a GPU."""
        definition = f"{RINGS} {BEADS} {CENTRES} {RADIUS} {STD}"
        return closed_form.dataset(NAME, TRUTH, definition, space, place, RINGS)
