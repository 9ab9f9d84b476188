"""DINOv2 ViT-L/14 as in the FD-DINOv2 papers (Stein et al. 2023, dgm-eval): class token, d 1024."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import (
    FEATURES,
    Extractor,
    digest,
    find_weights,
    load_state,
    pillow_resized,
    standardised,
)

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE = "dinov2_vitl14_pretrain.pth"
URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{FILE}"
ARCHITECTURE = "vit_large_patch14_dinov2"


def load(
    weights: str | None = None, device: str = "cpu", architecture: str = ARCHITECTURE
) -> Extractor:
    """DINOv2 ViT-L/14: the normalised class token of the published weights, in timm's network."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    path = find_weights("dinov2", weights, FILE, URL, "")
    network: Any = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=SIDE)
    try:
        network.load_state_dict(checkpoint_filter_fn(load_state(path), network))
    except (RuntimeError, KeyError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"extractor.weights={path}: of another network: {line}") from error
    network = network.requires_grad_(False).eval().to(device)

    def prepare(images: np.ndarray) -> Tensor:
        from PIL import Image

        resized = pillow_resized(images, (SIDE, SIDE), Image.Resampling.BICUBIC)
        return standardised(resized, MEAN, STD)

    def outputs(x: Tensor) -> dict[str, Tensor]:
        return {FEATURES: network.forward_features(x)[:, 0]}

    rule = f"Pillow bicubic to {SIDE}"
    return Extractor("dinov2", digest(path), rule, (FEATURES,), prepare, outputs, device)
