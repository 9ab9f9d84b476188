"""CLIP through open_clip: image embeddings as CMMD uses them, and the texts of CLIP scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piflow_bench.contracts.extractor import FEATURES, Extractor, ExtractorPlugin, Weights
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.extractors.extractor import (
    find_weights,
    pillow_resized,
    standardised,
)
from piflow_bench.files.digests import digest
from piflow_bench.settings import setting

MODEL = "ViT-L-14-336-quickgelu"
"""OpenAI's weights need the quickgelu architecture; CMMD is defined on this one."""
FILE = "ViT-L-14-336px.safetensors"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HUB = "hf-hub:"


@dataclass(frozen=True)
class Clip:
    """A CLIP model with both encoders."""

    network: Any
    source: str
    """What open_clip knows it by."""
    weights: str
    """sha256 of the weights."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str

    @property
    def side(self) -> int:
        """Pixels of the square images it sees."""
        size = self.network.visual.image_size
        return size[0] if isinstance(size, tuple) else size

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch: int = 64) -> np.ndarray:
        """Unit vectors ``(n, d)`` float32 of at least one text.

        The tokenizer cuts what is longer than the model's context (77 tokens, the start and end
        marks among them). Texts that recur are encoded once.
        """
        import open_clip

        tokenize = open_clip.get_tokenizer(self.source)
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        unique = list(rows)
        parts = [
            self.network.encode_text(
                tokenize(unique[i : i + batch]).to(self.device), normalize=True
            )
            for i in range(0, len(unique), batch)
        ]
        return torch.cat(parts).float().cpu().numpy()[[rows[text] for text in texts]]


def open_model(
    weights: str | None = None,
    device: str = "cpu",
    model: str = MODEL,
    setting: str = "extractor.weights",
) -> Clip:
    """A CLIP model of open_clip.

    Args:
        weights: a file of ``model``'s weights; a folder with ``open_clip_config.json`` and the
            weights, which names its own model; ``hf-hub:ORGANISATION/REPOSITORY``, the same from
            the hub; None for ``FILE`` in the cache folder.
        device: cpu, cuda or cuda:1.
        model: the architecture of a file.
        setting: what gave ``weights``, for messages.

    Raises:
        UserError: for an unknown model, one whose tokenizer would be downloaded, or weights that
            are missing or of another model.
    """
    import open_clip

    path: Path | None = None
    given: dict[str, str] = {}
    if weights is not None and weights.startswith(HUB):
        source = weights
    elif weights is not None and Path(weights).is_dir():
        source = f"local-dir:{weights}"
    else:
        _check_architecture(model)
        path = find_weights("clip", weights, FILE, None, "", setting)
        source, given = model, {"pretrained": str(path)}
    try:
        network: Any = open_clip.create_model(source, device=device, **given)
    except Exception as error:  # It raises whatever it trips over, assertions among them.
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{setting}={weights or path}: not weights of {model}: {line}") from error
    network = network.requires_grad_(False).eval()
    preparation = {} if path else getattr(network.visual, "preprocess_cfg", {})
    return Clip(
        network,
        source,
        digest(path) if path else _state_digest(network),
        tuple(preparation.get("mean", MEAN)),
        tuple(preparation.get("std", STD)),
        device,
    )


def _check_architecture(model: str) -> None:
    import open_clip

    if model not in open_clip.list_models():
        raise UserError(f"no CLIP model '{model}'; {nearest(model, open_clip.list_models())}")
    if "hf_tokenizer_name" in open_clip.get_model_config(model)["text_cfg"]:
        raise UserError(f"CLIP model '{model}': its tokenizer would have to be downloaded")


def _state_digest(network: torch.nn.Module) -> str:
    whole = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        whole.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()


def image_extractor(clip: Clip) -> Extractor:
    """The extractor of a model's image encoder: unit vectors."""

    def prepare(images: np.ndarray) -> Tensor:
        from PIL import Image

        resized = pillow_resized(images, (clip.side, clip.side), Image.Resampling.BICUBIC)
        return standardised(resized, clip.mean, clip.std)

    def outputs(x: Tensor) -> dict[str, Tensor]:
        return {FEATURES: torch.nn.functional.normalize(clip.network.encode_image(x), dim=-1)}

    rule = _rule(clip.source, clip.side)
    return Extractor("clip", clip.weights, rule, (FEATURES,), prepare, outputs, clip.device)


def _rule(source: str, side: int) -> str:
    # A folder's place decides nothing; its weights' digest is in the identity.
    model = "from a folder" if source.startswith("local-dir:") else source
    return f"{model}, Pillow bicubic to {side}"


@dataclass(frozen=True)
class Config(Weights):
    """Settings: open_clip's name of the model beside a file of its weights."""

    model: str = setting(MODEL)


class ClipImages(ExtractorPlugin):
    """CLIP's normalised image embeddings, through open_clip."""

    Config = Config

    def identity(self) -> Mapping[str, Any]:
        """Rule and digest; a model from a folder or the hub, which names itself, is loaded."""
        weights = self.config.weights
        if weights is not None and (weights.startswith(HUB) or Path(weights).is_dir()):
            found = self.load("clip", Place())
            return {"rule": found.rule, "weights": found.weights}
        import open_clip

        _check_architecture(self.config.model)
        side = open_clip.get_model_config(self.config.model)["vision_cfg"]["image_size"]
        path = find_weights("clip", weights, FILE, None, "")
        return {"rule": _rule(self.config.model, side), "weights": digest(path)}

    def load(self, name: str, place: Place) -> Extractor:
        """open_clip's network."""
        return image_extractor(open_model(self.config.weights, place.device, self.config.model))
