"""Images side by side as data URIs, reduced where they are large."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

TILE = 56  # Pixels on the page that a tile should about fill.
QUALITY = 78
STRIP = 1040  # Width of the page that is left for a strip.


@dataclass(frozen=True)
class Detail:
    """What pictures keep: the page is for looking, the store keeps the samples."""

    largest: int
    """Pixels from which on an image is reduced."""
    exact: int
    """Pixels up to which an image keeps every pixel; larger ones are compressed with loss."""


DETAILS = (Detail(128, 32), Detail(64, 32), Detail(32, 32), Detail(32, 0), Detail(16, 0))
"""From the best to the least: the first that keeps within the budget is taken."""


def uri(image: Image.Image, lossy: bool = False) -> str:
    """A data URI, PNG or (lossy) WebP; the same pixels give the same text."""
    buffer = io.BytesIO()
    if lossy:
        image.save(buffer, format="WEBP", quality=QUALITY, method=4)
    else:
        image.save(buffer, format="PNG", optimize=True)
    kind = "webp" if lossy else "png"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scale(size: int, count: int = 1) -> int:
    """Whole-number enlargement of a tile on the page, so that every pixel is equally large.

    A strip of ``count`` tiles is kept within the page unless its tiles would become too small.
    """
    fitting = max(STRIP // (count * (size + 1)), round(TILE / size / 2))
    return max(1, min(round(TILE / size), fitting))


def strip(images: np.ndarray, gap: int = 1, largest: int = DETAILS[0].largest) -> Image.Image:
    """Images ``(G, H, W, C)`` of uint8 side by side, with transparent gaps."""
    if images.ndim == 3:
        images = images[..., None]
    count, height, width, channels = images.shape
    tiles = images
    if max(height, width) > largest:
        factor = largest / max(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        tiles = np.stack([_reduced(tile, size) for tile in images])
        width, height = size
    out = np.zeros((height, count * width + (count - 1) * gap, 4), np.uint8)
    for i, tile in enumerate(tiles):
        left = i * (width + gap)
        colour = np.repeat(tile[..., :1], 3, axis=-1) if channels < 3 else tile[..., :3]
        out[:, left : left + width, :3] = colour
        out[:, left : left + width, 3] = 255
    return Image.fromarray(out)


def _reduced(tile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(tile[..., 0] if tile.shape[-1] < 3 else tile[..., :3])
    small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return small[..., None] if small.ndim == 2 else small
