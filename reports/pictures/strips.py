"""Pictures side by side, at one scale and small enough for a page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from piflow_reports.pictures.images import DETAILS, strip, uri


@dataclass(frozen=True)
class Tiles:
    """A strip of pictures as the page shows it; sizes are pixels on the page."""

    uri: str
    width: int
    height: int
    step: int
    """From one picture to the next."""


def side_by_side(images: np.ndarray, tile: int, largest: int) -> Tiles:
    """Pictures ``(G, H, W, C)`` in a strip.

    They are enlarged by a whole number so that one fills about ``tile`` pixels on the page, or
    reduced to ``largest``; with loss where they are large.
    """
    picture = strip(images, largest=largest)
    times = max(tile // picture.height, 1)
    lossy = max(images.shape[1:3]) > DETAILS[0].exact
    width, height = picture.width * times, picture.height * times
    return Tiles(uri(picture, lossy), width, height, (width + times) // len(images))
