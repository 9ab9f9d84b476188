"""The consistency step: estimates of the data from neighbouring times of one path should agree."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.api import Context, flow


def pseudo_huber(error: Tensor, c: float) -> Tensor:
    """``sqrt(e^2 + c^2) - c`` over the elements of each row ``(B,)``, a mean (arXiv 2310.14189).

    ``c`` is per element: below it errors count quadratically.
    """
    return ((error.flatten(1).square() + c**2).sqrt() - c).mean(1)


def neighbour(x: Tensor, velocity: Tensor, t: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """Euler's step from states x at times t ``(B,)`` to t + by, and these times."""
    return x + flow.expand(by, x) * velocity, t + by


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
