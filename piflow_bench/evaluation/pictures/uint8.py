"""Pixels between uint8 and floats: every rule once.

Nothing here rounds twice: samples become integers by one rule, which a protocol or a space names,
and what is measured or shown is made of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from piflow_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

RULES = {
    "adm": lambda x: (x + 1) * 127.5,  # Truncated, as ADM's and DiT's sampling scripts do.
    "round": lambda x: x * 127.5 + 128,  # To the nearest, as the official pi-Flow evaluation does.
}
"""How decoded pixels x in [-1, 1] become integers: clamped to 0..255 and truncated after it."""


def signed(pixels: Tensor) -> Tensor:
    """uint8 as float32 in [-1, 1], of any shape: ``x / 127.5 - 1``."""
    return pixels.float() / 127.5 - 1


def by_rule(images: Tensor, rule: str) -> np.ndarray:
    """Images ``(B, C, H, W)`` in about [-1, 1] as ``(B, H, W, C)`` uint8, by a rule of ``RULES``.

    Raises:
        UserError: for a rule that there is not.
    """
    if rule not in RULES:
        raise UserError(f"uint8={rule}: no such rule; {nearest(rule, list(RULES))}")
    pixels = RULES[rule](images.float()).clamp(0, 255).byte()
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def of_levels(images: Tensor, levels: int = 256) -> np.ndarray:
    """Images ``(B, C, H, W)`` in [-1, 1] as ``(B, H, W, C)`` uint8 of so many even levels.

    What lies outside is clipped; the nearest level is taken.
    """
    top = levels - 1
    level = ((images.clamp(-1, 1) + 1) * (top / 2)).round()
    return (level * (255 / top)).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def of_unit(images: np.ndarray, what: str = "samples") -> np.ndarray:
    """uint8 of floats in [0, 1], by the rule ``floor(255 x + 1/2)``.

    Raises:
        UserError: for values out of range or not finite.
    """
    if images.itemsize < 4:  # 255 x + 1/2 of half precision is not exact.
        images = images.astype(np.float32)
    if not np.isfinite(images).all():
        raise UserError(f"{what}: values that are not finite")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise UserError(
            f"{what}: floats must lie in [0, 1], not [{low:.3g}, {high:.3g}]; images in [-1, 1] "
            "are (x + 1) / 2"
        )
    return (images * 255 + 0.5).astype(np.uint8)


def for_the_eye(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1], or of uint8 already, as uint8 for the eye; what is no number is black."""
    if images.dtype == np.uint8:
        return images
    values = np.nan_to_num(images.astype(float), nan=-1.0)
    return ((values.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
