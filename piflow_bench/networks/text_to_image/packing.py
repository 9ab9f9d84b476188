"""Latents as the tokens of FLUX and Qwen-Image: a token is a 2x2 patch, its channels slowest."""

from __future__ import annotations

from torch import Tensor

PATCH = 2
"""Rows and columns of a patch."""


def pack(x: Tensor) -> Tensor:
    """Latents ``(B, C, H, W)`` as tokens ``(B, H/2 * W/2, C * 4)``, row by row.

    Raises:
        ValueError: for an odd height or width.
    """
    batch, channels, height, width = x.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"latents of {height}x{width} have no patches of {PATCH}x{PATCH}")
    patches = x.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH * PATCH)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Latents ``(B, C, H, W)`` from the tokens of :func:`pack`."""
    rows, columns = height // PATCH, width // PATCH
    patches = tokens.reshape(len(tokens), rows, columns, -1, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def places_first(rows: Tensor, groups: int = 1) -> Tensor:
    """A layer's outputs ``(groups * C * 4, ...)`` in the order of `contracts.backbone`: 4 first.

    FLUX and Qwen-Image have a patch's four places last, within a channel; backbones' heads have
    them first: ``(4, groups, C)``.
    """
    parts = rows.reshape(groups, -1, PATCH * PATCH, *rows.shape[1:])
    return parts.movedim(2, 0).reshape(rows.shape)


def places_last(rows: Tensor, groups: int = 1) -> Tensor:
    """The inverse of :func:`places_first`."""
    parts = rows.reshape(PATCH * PATCH, groups, -1, *rows.shape[1:])
    return parts.movedim(0, 2).reshape(rows.shape)
