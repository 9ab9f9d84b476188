"""Networks that score a picture with its prompt, one sample at a time.

``clip_score``: the cosine of CLIP's embeddings of both (arXiv:2104.08718 without its factor), on
OpenAI's ViT-L/14 at 336 pixels: the shorter side comes to that, the centre is cut out.
``hpsv2``: HPSv2.1 (arXiv:2306.09341), a ViT-H/14 trained on people's choices: the longer side comes
to 224, black fills the rest. The hpsv2 package builds it with plain GELU, pi-Flow's evaluation with
QuickGELU (``hpsv2_quickgelu``): their numbers are not of one scale.
``vqascore``: what CLIP-FlanT5 answers when it is asked for the prompt (:mod:`.vqascore`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from piflow_bench.evaluation import clip_t5, vqascore
from piflow_bench.evaluation.extractors import clip
from piflow_bench.evaluation.extractors.extractor import (
    cache_folder,
    find_weights,
    pillow_resized,
    standardised,
)
from piflow_bench.files.digests import digest
from piflow_bench.files.weights import load_into, read_weights

HPS_FILE = "HPS_v2.1_compressed.pt"
HPS_MODEL = "ViT-H-14"
BATCH = 16
"""Pictures in one pass of a network."""


@dataclass(frozen=True)
class Scorer:
    """A loaded network; ``score(pictures, prompts)`` gives ``(b,)`` float32.

    Pictures are ``(b, h, w, 3)`` uint8, prompts as many.
    """

    identity: Mapping[str, str]
    """Its rule, and sha256 of its weights: what decides its numbers."""
    score: Callable[[np.ndarray, Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class _Kind:
    """How a metric's network is found, described and loaded."""

    file: str
    """In the cache folder; of some a folder."""
    rule: str
    load: Callable[[Path, str], Callable[[np.ndarray, Sequence[str]], np.ndarray]]
    find: Callable[[str | None], Path] | None = None
    """Where the weights are, if they are not one file or a folder of open_clip's."""
    digest: Callable[[Path], str] = digest
    mend: Callable[[], str] | None = None
    """What brings them, if more than to put the file there."""


def names() -> tuple[str, ...]:
    """The metrics of pictures with prompts."""
    return tuple(_KINDS)


def file_of(metric: str) -> str:
    """Name of the file of a metric's weights in the cache folder."""
    return _KINDS[metric].file


def mend_of(metric: str) -> str:
    """What brings a metric's weights, for `doctor`."""
    kind = _KINDS[metric]
    if kind.mend is not None:
        return kind.mend()
    return f"put {kind.file} into {cache_folder()}, or scorers.{metric}.weights=FILE"


def identity_of(metric: str, weights: str | None) -> dict[str, str]:
    """What decides a metric's numbers; no network is loaded.

    Raises:
        UserError: if its weights are nowhere.
    """
    kind = _KINDS[metric]
    return {"rule": kind.rule, "weights": kind.digest(_file(metric, weights))}


def load(metric: str, weights: str | None, device: str = "cpu") -> Scorer:
    """The network of a metric.

    Args:
        metric: one of :func:`names`.
        weights: its file, or a folder with ``open_clip_config.json`` that names its own model (of
            ``vqascore`` the folder as published); None for the one in the cache folder.
        device: cpu, cuda or cuda:1.

    Raises:
        UserError: if the weights are missing, or of another network.
    """
    kind = _KINDS[metric]
    return Scorer(identity_of(metric, weights), kind.load(_file(metric, weights), device))


def _file(metric: str, weights: str | None) -> Path:
    find = _KINDS[metric].find
    if find is not None:
        return find(weights)
    if weights is not None and Path(weights).is_dir():
        return Path(weights)
    file = _KINDS[metric].file
    return find_weights(metric, weights, file, None, "", f"scorers.{metric}.weights")


# ------------------------------------------------------------------ pictures


def short_side(pictures: np.ndarray, side: int) -> np.ndarray:
    """The shorter side resized to ``side``, bicubic with antialiasing, and the centre cut out."""
    _, height, width, _ = pictures.shape
    scale = side / min(height, width)
    size = (max(round(height * scale), side), max(round(width * scale), side))
    resized = _resized(pictures, size)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return resized[:, top : top + side, left : left + side]


def long_side(pictures: np.ndarray, side: int) -> np.ndarray:
    """The longer side resized to ``side``, bicubic with antialiasing, black around the rest."""
    _, height, width, _ = pictures.shape
    scale = side / max(height, width)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    framed = np.zeros((len(pictures), side, side, 3), np.uint8)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    framed[:, top : top + size[0], left : left + size[1]] = _resized(pictures, size)
    return framed


def _resized(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    return pillow_resized(pictures, (size[1], size[0]), Image.Resampling.BICUBIC)


# ------------------------------------------------------------------ networks


def _cosines(
    model: clip.Clip, prepared: Callable[[np.ndarray, int], np.ndarray]
) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Cosines of a model's embeddings of pictures and prompts."""

    @torch.inference_mode()
    def score(pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        texts = torch.from_numpy(model.embed_texts(prompts))
        rows = []
        for i in range(0, len(pictures), BATCH):
            x = standardised(prepared(pictures[i : i + BATCH], model.side), model.mean, model.std)
            found = model.network.encode_image(x.to(model.device), normalize=True)
            rows.append((found.float().cpu() * texts[i : i + BATCH]).sum(1))
        return torch.cat(rows).numpy()

    return score


def _clip(path: Path, device: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    model = clip.open_model(str(path), device, setting="scorers.clip_score.weights")
    return _cosines(model, short_side)


def _hps(architecture: str, metric: str) -> Any:
    def load(path: Path, device: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
        where = f"scorers.{metric}.weights"
        if path.is_dir():
            return _cosines(clip.open_model(str(path), device, setting=where), long_side)
        import open_clip

        network: Any = open_clip.create_model(architecture, device=device)
        # The file has what its training counted beside the weights.
        state = {k: v for k, v in read_weights(path).state.items() if k in network.state_dict()}
        load_into(network, state, f"{where}={path}")
        network.requires_grad_(False).eval()
        model = clip.Clip(network, architecture, digest(path), clip.MEAN, clip.STD, device)
        return _cosines(model, long_side)

    return load


def _vqa(path: Path, device: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    return clip_t5.load(path, device).score


_KINDS = {
    "clip_score": _Kind(clip.FILE, f"{clip.MODEL}, Pillow bicubic, centre", _clip),
    "hpsv2": _Kind(
        HPS_FILE, f"{HPS_MODEL}, GELU, Pillow bicubic, framed", _hps(HPS_MODEL, "hpsv2")
    ),
    "hpsv2_quickgelu": _Kind(
        HPS_FILE,
        f"{HPS_MODEL}, QuickGELU, Pillow bicubic, framed",
        _hps(f"{HPS_MODEL}-quickgelu", "hpsv2_quickgelu"),
    ),
    "vqascore": _Kind(
        clip_t5.FOLDER,
        vqascore.RULE,
        _vqa,
        clip_t5.find_folder,
        clip_t5.digest_of,
        clip_t5.mend,
    ),
}
"""How each metric's network is found and loaded."""
