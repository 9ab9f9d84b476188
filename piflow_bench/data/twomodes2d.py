"""Two classes of two modes each: whether a student keeps both modes of a class can be counted."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from piflow_bench.contracts.data import Dataset, DatasetPlugin, Modes, Truth
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.data import closed_form

NAME = "twomodes2d"
STD = 0.12
MEANS = torch.tensor([[[-1.0, 0.8], [-1.0, -0.8]], [[1.0, 0.8], [1.0, -0.8]]], dtype=torch.float64)
"""``(classes, modes, 2)``: a class lies left or right, its modes above and below."""
CLASSES = len(MEANS)

of_class = partial(closed_form.class_velocity, means=MEANS, std=STD)
_drawn = partial(closed_form.draw_classes, NAME, MEANS, STD)


def velocity(x: Tensor, t: Tensor | float) -> Tensor:
    """The exact velocity of both classes together."""
    return of_class(x, t, torch.full((len(x),), CLASSES, device=x.device))


def draw(seed: int, n: int) -> Tensor:
    """Exact samples ``(n, 2)``, float32."""
    return _drawn(seed, n)[0]


class TwoModes2d(DatasetPlugin):
    """Two classes of two modes each in the plane, with the exact velocity of every class."""

    space = "points"

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Exact samples; nothing of it is worth a GPU."""
        means = MEANS.flatten(0, 1).numpy()
        truth = Truth(
            velocity,
            draw,
            Modes(means, STD, torch.full((len(means),), 1 / len(means)).double().numpy()),
            of_class,
            lambda seed, n: _drawn(seed, n)[1],
        )
        return closed_form.dataset(NAME, truth, f"{MEANS.tolist()} {STD}", space, place, CLASSES)
