"""The digits classifier that comes with the package: 64 features of 8x8 images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from piflow_bench.data.digits import ASSETS, SHAPE, Classifier
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import (
    FEATURES,
    LOGITS,
    Extractor,
    channels_first,
    digest,
    load_into,
)


def load(weights: str | None = None, device: str = "cpu") -> Extractor:
    """The classifier of the 8x8 digits that comes with the package: 64 features, logits.

    Images are ``(b, 8, 8, 3)``; the channels are averaged.
    """
    path = Path(weights or ASSETS / "digits_classifier.safetensors")
    if not path.is_file():
        raise UserError(f"extractor.weights={path}: no such file")
    network = load_into(Classifier(), path).to(device)
    assert isinstance(network, Classifier)

    def prepare(images: np.ndarray) -> Tensor:
        if images.shape[1:3] != SHAPE[1:]:
            height, width = images.shape[1:3]
            raise UserError(f"extractor=digits sees 8x8 images, not {width}x{height}")
        return channels_first(images).float().mean(1, keepdim=True) / 127.5 - 1

    def outputs(x: Tensor) -> dict[str, Tensor]:
        features = network.features(x)
        return {FEATURES: features, LOGITS: network.out(features)}

    rule = "uint8 / 127.5 - 1"
    return Extractor("digits", digest(path), rule, (FEATURES, LOGITS), prepare, outputs, device)
