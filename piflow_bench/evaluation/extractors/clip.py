"""CLIP image embeddings through open_clip: unit vectors, as CMMD and CLIP distances use them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from piflow_bench.errors import UserError
from piflow_bench.evaluation.extractors.extractor import (
    FEATURES,
    Extractor,
    digest,
    find_weights,
    pillow_resized,
    standardised,
)

MODEL = "ViT-L-14-336-quickgelu"
"""OpenAI's weights need the quickgelu architecture; CMMD is defined on this one."""
FILE = "ViT-L-14-336px.safetensors"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def load(weights: str | None = None, device: str = "cpu", model: str = MODEL) -> Extractor:
    """Normalised embeddings of an open_clip model whose weights lie in a local file."""
    import open_clip

    path = find_weights("clip", weights, FILE, None, "")
    try:
        network = open_clip.create_model(model, pretrained=str(path), device=device)
    except (RuntimeError, OSError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"extractor.weights={path}: not weights of {model}: {line}") from error
    network = network.requires_grad_(False).eval()
    size = network.visual.image_size
    side = size[0] if isinstance(size, tuple) else size

    def prepare(images: np.ndarray) -> Tensor:
        from PIL import Image

        resized = pillow_resized(images, (side, side), Image.Resampling.BICUBIC)
        return standardised(resized, MEAN, STD)

    def outputs(x: Tensor) -> dict[str, Tensor]:
        return {FEATURES: torch.nn.functional.normalize(network.encode_image(x), dim=-1)}

    rule = f"{model}, Pillow bicubic to {side}"
    return Extractor("clip", digest(path), rule, (FEATURES,), prepare, outputs, device)
