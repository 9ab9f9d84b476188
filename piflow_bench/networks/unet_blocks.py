"""Layers of a U-Net: the residual block, and how maps are halved and doubled."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    interpolate,
    pad,
    scaled_dot_product_attention,
    silu,
)


def group_norm(channels: int, groups: int | None, eps: float) -> nn.Module:
    """A group norm; ``min(32, channels // 4)`` groups if None, the identity if 0."""
    if groups == 0:
        return nn.Identity()
    return nn.GroupNorm(min(32, channels // 4) if groups is None else groups, channels, eps)


def zero(layer: nn.Module) -> None:
    """Set all weights of a layer to zero."""
    for p in layer.parameters():
        nn.init.zeros_(p)


# ------------------------------------------------------------------ features of times


def frequencies(
    channels: int,
    shift: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Angular frequencies ``10000 ** -(i / (channels / 2 - shift))``, ``(channels / 2,)``."""
    i = torch.arange(channels // 2, dtype=dtype, device=device)
    return torch.exp(-math.log(10000) * i / (channels // 2 - shift))


def waves(t: Tensor, frequency: Tensor, sines_first: bool) -> Tensor:
    """Cosines and sines of ``frequency * t``, times ``(B,)`` as ``(B, channels)``."""
    angle = t.to(frequency.dtype)[:, None] * frequency
    parts = [angle.sin(), angle.cos()] if sines_first else [angle.cos(), angle.sin()]
    return torch.cat(parts, dim=1)


# ------------------------------------------------------------------ maps of another size


def _halve_columns(x: Tensor, size: int) -> Tensor:
    """Every second of the sums ``(1, 3, 3, 1) / 8`` of four columns, ``size / 2`` of them."""
    a, b, c, d = (x[..., i : i + size : 2] for i in range(4))
    return (a + d + 3 * (b + c)) / 8


def _double_columns(x: Tensor) -> Tensor:
    """Columns ``(left + 3 x) / 4`` and ``(3 x + right) / 4`` in turns; zero beyond the edge."""
    wide = pad(x, (1, 1))
    pairs = torch.stack([wide[..., :-2] + 3 * x, 3 * x + wide[..., 2:]], dim=-1)
    return pairs.flatten(-2) / 4


def halve(x: Tensor, taps: tuple[int, ...], padding: int = 1) -> Tensor:
    """A map ``(B, C, H, W)`` filtered by ``taps`` along both sides, at half the size.

    Args:
        x: the map.
        taps: (1, 1), the mean of 2 x 2, or (1, 3, 3, 1).
        padding: zeros around it before (1, 3, 3, 1); with 0 they are there already.
    """
    if taps == (1, 1):
        return avg_pool2d(x, 2)
    x = pad(x, (padding,) * 4)
    rows, columns = x.shape[-2] - 2, x.shape[-1] - 2
    return _halve_columns(_halve_columns(x, columns).mT, rows).mT


def double(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    """A map ``(B, C, H, W)`` at twice the size: the adjoint of :func:`halve`, times 4."""
    if taps == (1, 1):
        return interpolate(x, scale_factor=2.0, mode="nearest")
    return _double_columns(_double_columns(x).mT).mT


class Shrink(nn.Module):
    """A 3x3 convolution of stride 2.

    Args:
        channels: of its input and output.
        asymmetric: whether zeros are added below and to the right alone, as DDPM does.
    """

    def __init__(self, channels: int, asymmetric: bool) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` as ``(B, C, H / 2, W / 2)``."""
        return self.conv(pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Enlarge(nn.Module):
    """Every element four times, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` as ``(B, C, 2 H, 2 W)``."""
        return self.conv(double(x, (1, 1)))


class Residual(nn.Conv2d):
    """A 3x3 convolution whose result is filtered and halved: NCSN++'s branch of the input.

    The zeros that both need are added before the convolution. (Its bias passes the filter, whose
    taps sum to 1, as it is.)
    """

    def __init__(self, inputs: int, outputs: int, taps: tuple[int, ...]) -> None:
        super().__init__(inputs, outputs, 3, padding=len(taps) // 2)
        self.taps = taps

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` as ``(B, C', H / 2, W / 2)``."""
        return halve(super().forward(x), self.taps, padding=0)


# ------------------------------------------------------------------ the residual block


class Block(nn.Module):
    """Two convolutions with norms around a skip, then self-attention where it has heads.

    Args:
        inputs: channels of its input.
        outputs: channels of its output.
        embedding_dim: width of the embedding.
        heads: of the attention; 0 for none.
        groups: of its norms, see :func:`group_norm`.
        eps: of its norms.
        adaptive: whether the embedding scales and shifts the second norm, or is added before it.
        scale: what the sums of branch and skip are multiplied by.
        way: ``down`` halves the map, ``up`` doubles it.
        taps: filter of that.
        project: whether the skip has a convolution though its channels stay.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding_dim: int,
        heads: int,
        groups: int | None,
        eps: float,
        adaptive: bool,
        scale: float,
        way: str,
        taps: tuple[int, ...],
        project: bool,
    ) -> None:
        super().__init__()
        self.heads, self.adaptive, self.scale = heads, adaptive, scale
        self.way, self.taps = way, taps
        self.norm0 = group_norm(inputs, groups, eps)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding_dim, outputs * (2 if adaptive else 1))
        self.norm1 = group_norm(outputs, groups, eps)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if project or inputs != outputs else None
        last: list[nn.Module] = [self.conv1]
        if heads:
            self.norm2 = group_norm(outputs, groups, eps)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.proj = nn.Conv2d(outputs, outputs, 1)
            last.append(self.proj)
        for layer in last:  # A fresh block starts as its skip.
            zero(layer)

    def _resample(self, x: Tensor) -> Tensor:
        if not self.way:
            return x
        return halve(x, self.taps) if self.way == "down" else double(x, self.taps)

    def _attend(self, x: Tensor) -> Tensor:
        """Self-attention over the map's places; channels of ``qkv`` are (head, channel, q k v)."""
        b, c, h, w = x.shape
        joint = self.qkv(x).reshape(b, self.heads, c // self.heads, 3, h * w)
        q, k, v = joint.permute(3, 0, 1, 4, 2)
        out = scaled_dot_product_attention(q, k, v)
        return self.proj(out.mT.reshape(b, c, h, w))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` and the embedding ``(B, E)`` as ``(B, outputs, H', W')``."""
        h = self.conv0(self._resample(silu(self.norm0(x))))
        change = self.affine(embedding)[:, :, None, None]
        if self.adaptive:
            scale, shift = change.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), 1 + scale)
        else:
            h = self.norm1(h + change)
        h = self.conv1(silu(h))
        x = self._resample(x)
        x = (h + (x if self.skip is None else self.skip(x))) * self.scale
        if self.heads:
            x = (x + self._attend(self.norm2(x))) * self.scale
        return x
