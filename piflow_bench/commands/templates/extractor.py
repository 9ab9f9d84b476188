"""NAME: say here in one line what looks at pictures, and where it is published.

Test it with `python -m piflow_bench check extractor NAME plugins=THIS_FILE`, and use it with
`evaluate samples=PATH reference=PATH extractor=NAME plugins=THIS_FILE`, or in a run with
`protocol.extractors=[NAME]`. As it stands it has no weights: a picture is 8x8 cells, and its
features are the colour of each and how much it varies there.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from piflow_bench.api import FEATURES, Extractor, ExtractorPlugin, NoSettings, Place

CELLS = 8


class CLASS(ExtractorPlugin):
    """Mean and standard deviation of each colour in 8x8 cells: 384 features."""

    # With a file of weights: leave this out, define file(), which gives the path
    # self.config.weights or raises UserError, and read that file in load().
    Config = NoSettings
    outputs = (FEATURES,)  # perhaps also LOGITS and SPATIAL
    rule = "0 to 1, means of 8x8 cells"  # how pictures are resized and scaled: change it with them

    def load(self, name: str, place: Place) -> Extractor:
        """The extractor: pictures to input, in threads, and input to outputs, on the device."""
        # A network goes to place.device here, in evaluation mode: .eval().requires_grad_(False).
        return self.loaded(name, place, prepare, network)


def prepare(images: np.ndarray) -> Tensor:
    """Pictures (b, h, w, 3) uint8 of any size as (b, 3, h, w) float32 in 0 to 1."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255


def network(x: Tensor) -> dict[str, Tensor]:
    """Outputs by name, each (b, d); what a picture gives depends on no other of the batch."""
    mean = adaptive_avg_pool2d(x, CELLS)
    square = adaptive_avg_pool2d(x.square(), CELLS)
    spread = (square - mean.square()).clamp(min=0).sqrt()
    return {FEATURES: torch.cat([mean, spread], 1).flatten(1)}
