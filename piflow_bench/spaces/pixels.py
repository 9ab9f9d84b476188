"""Pictures as they are, pixels in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import Space, SpacePlugin
from piflow_bench.evaluation.pictures.uint8 import of_levels, signed
from piflow_bench.settings import setting


@dataclass(frozen=True)
class Config:
    """Settings of pixels."""

    levels: int = setting(256, least=2, most=256)  # to which samples are rounded when looked at


class Pixels(SpacePlugin):
    """Pixels in [-1, 1]; samples are rounded to 256 levels before anything looks at them."""

    Config: ClassVar[type] = Config

    def load(self, pictures: tuple[int, int, int], place: Place) -> Space:
        """Samples ``(C, height, width)``."""
        height, width, channels = pictures

        def look(x: Tensor) -> np.ndarray:
            return of_levels(x, self.config.levels)

        def encode(images: np.ndarray) -> Tensor:
            return signed(torch.from_numpy(images).permute(0, 3, 1, 2))

        return Space((channels, height, width), look, encode)


@dataclass(frozen=True)
class FewLevels:
    """Settings of pixels of few levels."""

    levels: int = setting(17, least=2, most=256)


class GreyLevels(Pixels):
    """Pixels in [-1, 1] of few levels, as the 17 of the 8x8 digits."""

    Config = FewLevels
