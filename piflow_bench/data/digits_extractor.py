"""What looks at the digits: two networks that come with the package, and the pixels themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from piflow_bench.contracts.extractor import FEATURES, LOGITS, Extractor, ExtractorPlugin
from piflow_bench.contracts.plugin import NoSettings, Place
from piflow_bench.data.digits import ASSETS, SHAPE, Classifier, Perceptron
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import channels_first, given_file, load_into

WHOLE = 2000
"""Images at once: of networks this small."""
GREY = "17 grey levels"


def grey_levels(images: np.ndarray) -> Tensor:
    """Images ``(b, 8, 8, 3)`` uint8 as ``(b, 1, 8, 8)`` in [-1, 1], in the digits' 17 levels.

    Samples of a run are pictures of these levels; those of any other picture are the nearest.
    """
    if images.shape[1:3] != SHAPE[1:]:
        height, width = images.shape[1:3]
        raise UserError(f"extractor=digits sees 8x8 images, not {width}x{height}")
    return (channels_first(images).float().mean(1, keepdim=True) * 16 / 255).round() / 8 - 1


class Digits(ExtractorPlugin):
    """The classifier of the 8x8 digits that comes with the package: 64 features, logits."""

    outputs = (FEATURES, LOGITS)
    rule = GREY
    seconds = 2e-5

    def file(self) -> Path:
        """The package's file, or the given one."""
        return given_file(self.config.weights or str(ASSETS / "digits_classifier.safetensors"))

    def load(self, name: str, place: Place) -> Extractor:
        """A small convolutional network."""
        network = load_into(Classifier(), self.file()).to(place.device)
        assert isinstance(network, Classifier)

        def outputs(x: Tensor) -> dict[str, Tensor]:
            features = network.features(x)
            return {FEATURES: features, LOGITS: network.out(features)}

        return self.loaded(name, place, grey_levels, outputs, WHOLE)


class DigitsPixels(ExtractorPlugin):
    """The 64 pixels of 8x8 digits, in their 17 grey levels."""

    Config = NoSettings
    rule = GREY
    seconds = 2e-5

    def load(self, name: str, place: Place) -> Extractor:
        """No network."""
        return self.loaded(name, place, grey_levels, lambda x: {FEATURES: x.flatten(1)}, WHOLE)


class DigitsJudge(ExtractorPlugin):
    """A perceptron that judges the class of 8x8 digits, independent of the classifier."""

    Config = NoSettings
    outputs = (LOGITS,)
    rule = GREY
    seconds = 2e-5

    def file(self) -> Path:
        """The package's file."""
        return ASSETS / "digits_judge.safetensors"

    def load(self, name: str, place: Place) -> Extractor:
        """A small perceptron."""
        network: nn.Module = load_into(Perceptron(), self.file()).to(place.device)

        def outputs(x: Tensor) -> dict[str, Tensor]:
            return {LOGITS: network(x)}

        return self.loaded(name, place, grey_levels, outputs, WHOLE)


class Points(ExtractorPlugin):
    """The coordinates of points."""

    Config = NoSettings
    rule = "coordinates"
    seconds = 1e-7
    of_points = True

    def load(self, name: str, place: Place) -> Extractor:
        """No network."""
        return self.loaded(name, place, torch.from_numpy, lambda x: {FEATURES: x}, WHOLE)
