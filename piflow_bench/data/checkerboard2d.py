"""The uniform distribution on the black squares of a 4x4 checkerboard, at unit standard deviation.

Given ``x_t``, the noise is a standard normal truncated to an interval per axis and square, so the
posterior mean is exact, and outside the family of Gaussian mixtures.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from piflow_bench import flow
from piflow_bench.contracts.data import Dataset, DatasetPlugin, Truth
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.data import closed_form
from piflow_bench.randomness import seed_of

NAME = "checkerboard2d"
CELLS = 4
EXTENT = math.sqrt(3)
"""The board is [-EXTENT, EXTENT]^2; each axis is then uniform with variance 1."""
HALF = EXTENT / CELLS
"""Half the side of a square."""
CENTRES = torch.tensor([(2 * i + 1 - CELLS) * HALF for i in range(CELLS)], dtype=torch.float64)
"""Centres of the cells along one axis, ``(4,)``."""
BLACK = torch.tensor([(i, j) for i in range(CELLS) for j in range(CELLS) if (i + j) % 2 == 0])
"""Column and row of the black squares, ``(8, 2)``."""

_NODES, _NODE_WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(10))
_NARROW = 0.1
_TIME_FLOOR = 1e-6


def truncated_normal(centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """A standard normal truncated to ``[centre - half, centre + half]``, elementwise, in float64.

    Returns:
        The mean's place within the interval, ``(mean - centre) / half`` in [-1, 1], and the
        log of the mass over ``half`` (finite as ``half`` -> 0).
    """
    c = centre.abs()  # The other side by symmetry.
    product = c * half
    # Differences of distribution functions cancel on narrow intervals: quadrature there. Both
    # branches get harmless arguments where they are not used, to keep derivatives finite.
    narrow = (half < _NARROW) & (product < 1)
    wide_c, wide_half = torch.where(narrow, 1.0, c), torch.where(narrow, 1.0, half)
    narrow_c, narrow_half = torch.where(narrow, c, 0.0), torch.where(narrow, half, 0.0)
    wide_place, wide_mass = _wide(wide_c, wide_half)
    narrow_place, narrow_mass = _narrow(narrow_c, narrow_half)
    place = torch.where(narrow, narrow_place, wide_place)
    return torch.where(centre < 0, -place, place), torch.where(narrow, narrow_mass, wide_mass)


def _narrow(c: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """By Gauss-Legendre quadrature of the density relative to the centre's."""
    y = _NODES.to(c.device)
    scaled = half[..., None] * y
    density = _NODE_WEIGHTS.to(c.device) * torch.exp(-scaled * (c[..., None] + scaled / 2))
    mass = density.sum(-1)
    return (density * y).sum(-1) / mass, mass.log() - c.square() / 2 - math.log(2 * math.pi) / 2


def _wide(c: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """By distribution functions; with Mills ratios where the interval lies in the tail."""
    low, high = c - half, c + half
    tail = low > 0
    safe = low.clamp(min=0)
    # phi(high) / phi(low); phi is factored out, so that far tails do not underflow.
    decay = torch.exp(-2 * c * half)
    mills = _mills(safe) - torch.where(tail, decay, 0.0) * _mills(high)
    tail_mean, tail_mass = (1 - decay) / mills, mills.log() - safe.square() / 2
    inner = low.clamp(max=0)
    # Both terms are positive: the interval straddles 0.
    mass = math.sqrt(math.pi / 2) * (
        torch.erf(high / math.sqrt(2)) - torch.erf(inner / math.sqrt(2))
    )
    mean = (torch.exp(-inner.square() / 2) - torch.exp(-high.square() / 2)) / mass
    mean = torch.where(tail, tail_mean, mean)
    log_mass = torch.where(tail, tail_mass, mass.log()) - math.log(2 * math.pi) / 2
    return (mean - c) / half, log_mass - half.log()


def _mills(z: Tensor) -> Tensor:
    """``(1 - Phi(z)) / phi(z)`` for z >= 0."""
    ratio: Tensor = torch.special.erfcx(z / math.sqrt(2))
    return math.sqrt(math.pi / 2) * ratio


def posterior_mean(x: Tensor, t: Tensor | float) -> Tensor:
    """``E[x0 | x_t]`` in float64, ``(B, 2)``, at points ``(B, 2)`` and times ``(B,)`` in [0, 1].

    Times below 1e-6 count as 1e-6.
    """
    x = x.double()
    t = flow.expand(t, x).clamp(min=_TIME_FLOOR)
    t = torch.broadcast_to(t, (len(x), 1))[..., None]
    centres = CENTRES.to(x)
    alpha = 1 - t
    # x0 in a cell means noise (x - alpha x0) / t in an interval of this centre and half-width.
    middle = (x[..., None] - alpha * centres) / t
    place, log_mass = truncated_normal(middle, (alpha * HALF / t).expand_as(middle))
    mean = centres - HALF * place  # (B, 2, 4): axis, cell
    column, row = BLACK.to(x.device).unbind(1)
    share = (log_mass[:, 0, column] + log_mass[:, 1, row]).softmax(1)
    return torch.stack(
        [(share * mean[:, 0, column]).sum(1), (share * mean[:, 1, row]).sum(1)], dim=1
    )


def velocity(x: Tensor, t: Tensor | float) -> Tensor:
    """Exact velocity ``(B, 2)`` in the dtype of x; float64 inside, as sharp edges need it."""
    wide = x.double()
    u = (wide - posterior_mean(x, t)) / flow.expand(t, wide).clamp(min=_TIME_FLOOR)
    return u.to(x.dtype)


def on_board(x: Tensor) -> Tensor:
    """Whether points ``(n, 2)`` lie in a black square, ``(n,)``."""
    cell = ((x + EXTENT) / (2 * HALF)).floor()
    inside = ((cell >= 0) & (cell < CELLS)).all(1)
    return inside & (cell.sum(1) % 2 == 0)


def draw(seed: int, n: int) -> Tensor:
    """Exact samples ``(n, 2)``, float32."""
    generator = torch.Generator().manual_seed(seed_of(NAME, "draw", seed))
    square = BLACK[torch.randint(len(BLACK), (n,), generator=generator)]
    place = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
    return (CENTRES[square] + HALF * place).float()


class Checkerboard2d(DatasetPlugin):
    """Uniform squares of a checkerboard in the plane, with their exact velocity."""

    space = "points"

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Exact samples; nothing of it is worth a GPU."""
        truth = Truth(velocity, draw)
        return closed_form.dataset(NAME, truth, f"{CELLS} {EXTENT}", space, place)
