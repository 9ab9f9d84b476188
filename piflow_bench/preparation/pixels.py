"""Pixels of encoded images, cropped by ADM's rule."""

from __future__ import annotations

import io
import struct
from typing import Any


def decode(data: bytes) -> Any:
    """An RGB Pillow image; OSError, ValueError or SyntaxError where the data are damaged."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (Image.DecompressionBombError, EOFError, IndexError, struct.error) as error:
        raise ValueError(str(error)) from error


def centre_crop(image: Any, size: int) -> Any:
    """ADM's crop (also DiT's): halved by boxes while twice too large, bicubic, then the centre."""
    from PIL import Image

    while min(image.size) >= 2 * size:
        halved = tuple(side // 2 for side in image.size)
        image = image.resize(halved, resample=Image.Resampling.BOX)
    factor = size / min(image.size)
    scaled = tuple(round(side * factor) for side in image.size)
    image = image.resize(scaled, resample=Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))
