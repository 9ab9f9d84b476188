"""The consistency step: estimates of the data from neighbouring times of one path should agree."""

from __future__ import annotations

import copy
from math import ceil, log2
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.api import Condition, Context, flow


def pseudo_huber(error: Tensor, c: float) -> Tensor:
    """``sqrt(e^2 + c^2) - c`` over the elements of each row ``(B,)``, a mean (arXiv 2310.14189).

    ``c`` is per element: below it errors count quadratically.
    """
    return ((error.flatten(1).square() + c**2).sqrt() - c).mean(1)


def neighbour(x: Tensor, velocity: Tensor, t: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """Euler's step from states x at times t ``(B,)`` to t + by, and these times."""
    return x + flow.expand(by, x) * velocity, t + by


def estimate(network: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The estimate of the data ``x - t F(x, t)`` of states at times t ``(B,)``."""
    return flow.x0_from_velocity(x, network(x, t, condition), t)


def grid(nodes: int, low: float, high: float, rho: float) -> Tensor:
    """Flow times ``(nodes + 1,)`` from 0: the data, and EDM's grid of sigmas from low to high."""
    way = torch.linspace(0, 1, nodes, dtype=torch.float64)
    sigma = (low ** (1 / rho) + way * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    return torch.cat([sigma.new_zeros(1), sigma / (1 + sigma)])


def doubled(start: int, end: int, progress: float) -> int:
    """Nodes of a grid that is doubled from start to end, in equal parts of a training."""
    parts = ceil(log2(end / start)) + 1
    return min(start * 2 ** int(progress * parts), end)


def pair(edges: Tensor, quantile: Tensor, law: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Ends t > r ``(B,)`` of intervals between edges ``(n + 1,)``, at quantiles ``(B,)``.

    With a law (mean and deviation of log sigma's normal) an interval has its mass
    (arXiv 2310.14189, section 3.5), else all are equally probable.
    """
    n = len(edges) - 1
    if law is None:
        at = (quantile * n).long()
    else:
        sigma = edges[1:] / (1 - edges[1:])
        mass = torch.special.ndtr((sigma.log() - law[0]) / law[1])
        at = torch.searchsorted((mass / mass[-1]).to(quantile), quantile, right=True)
    at, edges = at.clamp(max=n - 1), edges.to(quantile)
    return edges[at + 1], edges[at]


def ect_end(sigma: Tensor, nearness: float) -> Tensor:
    """The second sigma of a pair: ``s (1 - (1 + 8 sigmoid(-s)) / nearness)``, at least 0.

    ``nearness`` is q^(stage + 1) of arXiv 2406.14548.
    """
    return (sigma * (1 - (1 + 8 * (-sigma).sigmoid()) / nearness)).clamp(min=0)


class Average(nn.Module):
    """A running average of a network's weights, of the steps before; it is asked for targets.

    Its state is part of every checkpoint. It takes in the network once a step, however the step's
    batch is divided.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """What the averaged network answers."""
        return self.network(*given, **named)

    @torch.no_grad()
    def follow(self, network: nn.Module, context: Context) -> None:
        """Take in the network's present weights, in the step's last part."""
        if not context.last:
            return
        for mine, its in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(its.to(mine), 1 - self.decay)
