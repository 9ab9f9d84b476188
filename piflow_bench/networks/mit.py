"""iMF's transformer (arXiv 2512.02012): an average velocity, told all that it knows by tokens.

Tokens of the class, the guidance, its interval and the step's duration stand before those of the
patches; the time itself is not told. RMS norms, rotary positions over the whole row of tokens,
SwiGLU, and a gate for each channel of a residual in the place of DiT's modulation. The second head,
of instantaneous velocities, serves training alone and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from piflow_bench.networks.dit import ClassEmbedder, PatchEmbed
from piflow_bench.networks.embeddings import TimeEmbedding

ROTATION = 10000.0
"""Ratio of the fastest to the slowest rotation of positions, about."""
EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    """The facts of a network."""

    channels: int
    height: int
    width: int
    dim: int
    head: int
    """Channels of an attention head."""
    inner: int
    """Width inside a SwiGLU."""
    shared: int
    """Blocks before the two heads part."""
    own: int
    """Blocks of the head of average velocities."""
    patch: int
    classes: int
    class_tokens: int
    guidance_tokens: int
    interval_tokens: int
    """Of each end of the interval."""
    time_tokens: int


@dataclass(frozen=True)
class Told:
    """The guidance that a network is asked for: scale w >= 1, at times in [low, high]."""

    scale: float
    low: float = 0.0
    high: float = 1.0


def rotation(tokens: int, head: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``(tokens, 1, head / 2)`` by which a row of tokens is turned."""
    speed = ROTATION ** (-torch.arange(0, head, 2, dtype=torch.float32, device=like.device) / head)
    angle = torch.arange(tokens, dtype=torch.float32, device=like.device)[:, None, None] * speed
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Neighbouring channels of ``(B, tokens, heads, head)`` as the parts of a turned number."""
    (cos, sin), (real, imaginary) = turn, x.unflatten(-1, (-1, 2)).unbind(-1)
    parts = real * cos - imaginary * sin, real * sin + imaginary * cos
    return torch.stack(parts, dim=-1).flatten(-2)


class _RMSNorm(nn.RMSNorm):
    """In its weights' precision, whatever that of the products around it."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class _Attention(nn.Module):
    def __init__(self, dim: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(dim, dim, bias=False) for _ in range(4)
        )
        self.q_norm, self.k_norm = (_RMSNorm(head) for _ in range(2))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.head))
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = turned(self.q_norm(q), turn), turned(self.k_norm(k), turn)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        out = scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class _SwiGLU(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(dim, inner, bias=False) for _ in range(2))
        self.w2 = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(silu(self.w1(x)) * self.w3(x))


class _Block(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.norm1, self.norm2 = (_RMSNorm(s.dim) for _ in range(2))
        self.attn, self.mlp = _Attention(s.dim, s.head), _SwiGLU(s.dim, s.inner)
        self.attn_gate, self.mlp_gate = (nn.Parameter(torch.zeros(s.dim)) for _ in range(2))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn_gate * self.attn(self.norm1(x), turn)
        return x + self.mlp_gate * self.mlp(self.norm2(x))


class _Final(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.norm = _RMSNorm(s.dim)
        self.linear = nn.Linear(s.dim, s.patch * s.patch * s.channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class MiT(nn.Module):
    """Average velocity of class-conditional samples ``(B, channels, height, width)``.

    Args:
        shape: its facts.
        told: the guidance that it is asked for.
    """

    def __init__(self, shape: Shape, told: Told) -> None:
        super().__init__()
        s = self.shape = shape
        self.told = told
        self.x_embedder = PatchEmbed(s.channels, s.dim, s.patch)
        self.h_embedder, self.omega_embedder, self.cfg_t_start_embedder, self.cfg_t_end_embedder = (
            TimeEmbedding(s.dim) for _ in range(4)
        )
        self.y_embedder = ClassEmbedder(s.classes, s.dim)
        self.class_tokens, self.omega_tokens, self.t_min_tokens, self.t_max_tokens = (
            nn.Parameter(torch.zeros(n, s.dim))
            for n in (s.class_tokens, s.guidance_tokens, s.interval_tokens, s.interval_tokens)
        )
        self.time_tokens = nn.Parameter(torch.zeros(s.time_tokens, s.dim))
        self.shared_blocks = nn.ModuleList(_Block(s) for _ in range(s.shared))
        self.u_heads = nn.ModuleList(_Block(s) for _ in range(s.own))
        self.u_final_layer = _Final(s)

    def _tokens(self, x: Tensor, condition: Any, duration: Tensor) -> Tensor:
        """What stands before the patches, and the patches ``(B, T, dim)``."""
        told = [1 - 1 / self.told.scale, self.told.low, self.told.high]
        scale, low, high = (torch.full_like(duration, value) for value in told)
        parts = [
            self.class_tokens + self.y_embedder(condition.labels)[:, None],
            self.omega_tokens + self.omega_embedder(scale)[:, None],
            self.t_min_tokens + self.cfg_t_start_embedder(low)[:, None],
            self.t_max_tokens + self.cfg_t_end_embedder(high)[:, None],
            self.time_tokens + self.h_embedder(duration)[:, None],
            self.x_embedder(x),
        ]
        return torch.cat(parts, dim=1)

    def forward(
        self, x: Tensor, t: Tensor, condition: Any, duration: Tensor | None = None
    ) -> Tensor:
        """Average velocity over ``duration`` ``(B,)``; of an instant if None. ``t`` is not used."""
        s = self.shape
        h = self._tokens(x, condition, torch.zeros_like(t) if duration is None else duration)
        turn = rotation(h.shape[1], s.head, h)
        for block in (*self.shared_blocks, *self.u_heads):
            h = block(h, turn)
        rows, columns = s.height // s.patch, s.width // s.patch
        flat = self.u_final_layer(h[:, -rows * columns :])
        image = flat.reshape(len(x), rows, columns, s.patch, s.patch, s.channels)
        return image.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)
