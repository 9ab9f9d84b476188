"""DINOv2 ViT-L/14 as in the FD-DINOv2 papers (Stein et al. 2023, dgm-eval): class token, d 1024."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from piflow_bench.contracts.extractor import FEATURES, Extractor, ExtractorPlugin, Weights
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import (
    find_weights,
    pillow_resized,
    standardised,
    weights_requirement,
)
from piflow_bench.files.weights import read_state
from piflow_bench.settings import setting

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE = "dinov2_vitl14_pretrain.pth"
URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{FILE}"
ARCHITECTURE = "vit_large_patch14_dinov2"


@dataclass(frozen=True)
class Config(Weights):
    """Settings: timm's name of the architecture beside the weights."""

    architecture: str = setting(ARCHITECTURE)


class DINOv2(ExtractorPlugin):
    """DINOv2 ViT-L/14: the normalised class token of the published weights, in timm's network."""

    Config = Config
    rule = f"Pillow bicubic to {SIDE}"

    def requirements(self) -> list[Requirement]:
        """The weights' file."""
        return weights_requirement("dinov2", self.config.weights, FILE)

    def file(self) -> Path:
        """The published file."""
        return find_weights("dinov2", self.config.weights, FILE, URL, "")

    def load(self, name: str, place: Place) -> Extractor:
        """timm's network."""
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        path = self.file()
        network: Any = timm.create_model(
            self.config.architecture, pretrained=False, num_classes=0, img_size=SIDE
        )
        state = read_state(path, f"extractor.weights={path}")
        try:
            network.load_state_dict(checkpoint_filter_fn(state, network))
        except (RuntimeError, KeyError) as error:
            line = " ".join(str(error).split())[:200]
            raise UserError(f"extractor.weights={path}: of another network: {line}") from error
        network = network.requires_grad_(False).eval().to(place.device)

        def prepare(images: np.ndarray) -> Tensor:
            from PIL import Image

            resized = pillow_resized(images, (SIDE, SIDE), Image.Resampling.BICUBIC)
            return standardised(resized, MEAN, STD)

        def outputs(x: Tensor) -> dict[str, Tensor]:
            return {FEATURES: network.forward_features(x)[:, 0]}

        return self.loaded(name, place, prepare, outputs)
