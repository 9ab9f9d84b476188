"""Embeddings of time and position."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


def sinusoids(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal features of times ``(B,)``: ``(B, channels)``, cosines first, at least float32.

    Angular frequencies run from 1 down to 1e-4, so the argument's unit decides the smoothness: with
    t in [0, 1] the features are smooth in t, with t in 0..1000 they oscillate.
    """
    half, dtype = channels // 2, torch.promote_types(t.dtype, torch.float32)
    frequency = torch.exp(
        -math.log(10000) * torch.arange(half, dtype=dtype, device=t.device) / half
    )
    angle = t.to(dtype)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids of ``time_offset + time_scale * t``, t in [0, 1], then a two-layer perceptron.

    Scale and offset are the checkpoint's units of time: (1, 0) where it was trained with t in
    [0, 1], (1000, 0) for 0..1000, (-1, 1) where its time runs from noise to data.
    """

    def __init__(
        self, dim: int, channels: int = 256, time_scale: float = 1.0, time_offset: float = 0.0
    ) -> None:
        super().__init__()
        self.channels, self.time_scale, self.time_offset = channels, time_scale, time_offset
        self.linear_1 = nn.Linear(channels, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """Embed times ``(B,)`` in [0, 1]: ``(B, dim)``."""
        units = self.time_offset + t * self.time_scale
        h = sinusoids(units, self.channels).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(h)))


def second_time_embedding(first: TimeEmbedding) -> TimeEmbedding:
    """An embedding that starts with the first layer of ``first`` and adds zero."""
    second = copy.deepcopy(first)
    nn.init.zeros_(second.linear_2.weight)
    nn.init.zeros_(second.linear_2.bias)
    return second


class Inputs(nn.ModuleList):
    """Embeddings of further numbers in [0, 1], each like that of a second time."""

    def __init__(self, first: TimeEmbedding, inputs: int) -> None:
        super().__init__(second_time_embedding(first) for _ in range(inputs))

    def forward(self, values: Tensor) -> Tensor:
        """Embed ``(B, inputs)``: ``(B, dim)``."""
        return torch.stack([embed(value) for embed, value in zip(self, values.T, strict=True)]).sum(
            0
        )


def sincos_2d(dim: int, height: int, width: int) -> Tensor:
    """Fixed 2-D sin-cos position table ``(height * width, dim)``, column coordinate first."""

    def axis(position: Tensor) -> Tensor:
        omega = 1 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
        angle = position.reshape(-1)[:, None] * omega
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    return torch.cat([axis(columns), axis(rows)], dim=1).float()
