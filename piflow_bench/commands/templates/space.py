"""NAME: say here in one line what a sample is.

Test it with `python -m piflow_bench check space NAME plugins=THIS_FILE`, and have a dataset's
samples in it with `space=NAME`. As it stands samples are pixels, shifted by a mean and divided by a
spread.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from piflow_bench.api import Place, Space, SpacePlugin, setting


@dataclass(frozen=True)
class Config:
    """Settings, each with its type, default and bounds: space.mean=0.45."""

    mean: float = setting(0.5, least=0, most=1)  # of the pixels, of which 1 is white
    spread: float = setting(0.5, above=0)  # what is one unit of a sample


class CLASSSpace(SpacePlugin):
    """Say here in one line what a sample is: `list` and `show` print it."""

    Config = Config

    def load(self, pictures: tuple[int, int, int], place: Place) -> Space:
        """The space of pictures of (height, width, channels).

        Refuse what it cannot hold with a `UserError` that names the setting. A network that decodes
        is loaded onto `place.device` here, or better when `look` is first called. Where samples
        are not as large as their pictures, define `pictures_of(shape)`, too.
        """
        height, width, channels = pictures
        mean, spread = self.config.mean, self.config.spread

        def look(x: Tensor) -> np.ndarray:
            """Samples (n, *shape) as pictures (n, h, w, c) uint8, each by itself alone."""
            pixels = (mean + spread * x).clamp(0, 1) * 255  # students leave the range: clip
            return pixels.round().byte().permute(0, 2, 3, 1).cpu().numpy()

        def encode(images: np.ndarray) -> Tensor:
            """Pictures (n, h, w, c) uint8 as samples; leave it out where there is no way back."""
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
            return (pixels - mean) / spread

        # Where all samples of data lie in [-1, 1] the harness holds them to it.
        bounded = max(mean, 1 - mean) <= spread
        return Space((channels, height, width), look, encode, bounded=bounded)
