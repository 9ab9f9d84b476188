"""Pillow's images and the files it opens, by one rule.

Grey images are repeated over the channels, palettes are looked up, alpha is dropped without
blending (Pillow's ``convert("RGB")``, as torch-fidelity and clean-fid do). More than 8 bits a
channel is refused: rounding it would be a choice of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from piflow_bench.errors import UserError

DEEP_MODES = ("I", "F")
"""First letters of the names of Pillow's modes of more than 8 bits a channel."""
ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
GREY_MODES = ("1", "L", "LA", "La")
ORIENTATION = 0x0112
"""EXIF's tag for how a viewer is to turn the image."""
DEEP_LAYOUT = ";16B"
"""Ends Pillow's name for a file's 16-bit channels, which it would cut to 8 bits unasked."""


def rgb(image: Any, where: str) -> np.ndarray:
    """A Pillow image of any mode as ``(h, w, 3)`` uint8.

    Raises:
        UserError: beginning with ``where``, for more than 8 bits a channel and for modes without a
            conversion.
    """
    _check_depth(image, where)
    if "transparency" in image.info:  # Pillow warns of what is the rule here.
        image = image.copy()
        del image.info["transparency"]
    try:
        return np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise UserError(f"{where}: mode {image.mode} is not read as RGB ({error})") from error


def decode(file: Path | BinaryIO, where: str) -> np.ndarray:
    """An image file as ``(h, w, 3)`` uint8; messages begin with ``where``."""
    with _opened(file, where) as image:
        return rgb(image, where)


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file say."""

    width: int
    height: int
    format: str
    """Pillow's name of it."""
    frames: int = 1
    alpha: bool = False
    grey: bool = False
    """Whether it has one channel, by its mode."""
    turned: bool = False
    """Whether it asks viewers to turn or mirror it."""


def header(file: Path | BinaryIO, where: str) -> Header:
    """An image file's header; its pixels are not read."""
    with _opened(file, where) as image:
        alpha = image.mode in ALPHA_MODES or "transparency" in image.info
        # Without EXIF before the pixels Pillow would read these to look for it.
        turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1
        (width, height), frames = image.size, getattr(image, "n_frames", 1)
        return Header(width, height, image.format, frames, alpha, image.mode in GREY_MODES, turned)


@contextmanager
def _opened(file: Path | BinaryIO, where: str) -> Iterator[Any]:
    """A Pillow image whose header was read; UserError for what is damaged or too deep."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            _check_depth(image, where)
            yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{where}: not a readable image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: cannot be read whole ({error})") from error


def _check_depth(image: Any, where: str) -> None:
    layouts = [str(tile[3]) for tile in getattr(image, "tile", ())]
    if image.mode.startswith(DEEP_MODES) or any(name.endswith(DEEP_LAYOUT) for name in layouts):
        raise UserError(
            f"{where}: more than 8 bits a channel ({image.mode}); convert it to 8 bits by the rule "
            "your protocol names"
        )
