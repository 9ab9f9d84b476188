"""A Gaussian mixture in the plane whose mode weights fall from .5 to .002.

It lies in the family of Gaussian-mixture policies, for which one evaluation can be exact.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from piflow_bench.contracts.data import Dataset, DatasetPlugin, Modes, Truth
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.data import closed_form
from piflow_bench.data.closed_form import (
    mixture_posterior_mean,
    mixture_velocity,
    posterior,
)
from piflow_bench.randomness import seed_of

__all__ = ["Mixture2d", "draw", "mixture_posterior_mean", "mixture_velocity", "posterior"]

NAME = "mixture2d"
STD = 0.08
MODES = (
    # weight, mean
    (0.500, (-1.05, -0.35)),
    (0.250, (1.20, 0.90)),
    (0.125, (0.35, -1.35)),
    (0.063, (-0.50, 1.45)),
    (0.031, (1.50, -0.60)),
    (0.016, (-1.50, 0.70)),
    (0.008, (0.30, 0.25)),
    (0.005, (-1.20, -1.50)),
    (0.002, (1.55, -1.55)),
)
"""Nine modes at irregular places, at least 11 standard deviations apart."""
WEIGHTS = torch.tensor([weight for weight, _ in MODES], dtype=torch.float64)
MEANS = torch.tensor([mean for _, mean in MODES], dtype=torch.float64)

velocity = partial(mixture_velocity, means=MEANS, weights=WEIGHTS, std=STD)


def draw(seed: int, n: int) -> Tensor:
    """Exact samples ``(n, 2)``, float32."""
    generator = torch.Generator().manual_seed(seed_of(NAME, "draw", seed))
    mode = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return (MEANS[mode] + STD * noise).float()


class Mixture2d(DatasetPlugin):
    """A Gaussian mixture in the plane, with its exact velocity: modes of weight .5 to .002."""

    space = "points"

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Exact samples; nothing of it is worth a GPU."""
        truth = Truth(velocity, draw, Modes(MEANS.numpy(), STD, WEIGHTS.numpy()))
        return closed_form.dataset(NAME, truth, f"{MODES} {STD}", space, place)
