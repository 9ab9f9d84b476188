"""How well images fit their prompts: cosines of CLIP's embeddings of both, and prompts' files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.agreement import cosines

SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda cosine: cosine,
    "hessel": lambda cosine: 2.5 * np.maximum(cosine, 0),
    "percent": lambda cosine: 100 * np.maximum(cosine, 0),
}
"""The scales in use: the bare cosine, Hessel et al. 2021 (section 3, w = 2.5), and percent."""


def clip_scores(
    image_embeddings: np.ndarray, text_embeddings: np.ndarray, scale: str = "cosine"
) -> np.ndarray:
    """CLIP score ``(n,)`` of every image with its own prompt.

    Args:
        image_embeddings: ``(n, d)``, of any length but 0.
        text_embeddings: ``(n, d)``, row by row of the images' prompts.
        scale: cosine (-1 to 1), hessel (0 to 2.5) or percent (0 to 100); the latter two cut
            negative cosines to 0.

    Raises:
        UserError: for another scale, or embeddings of different shapes.
    """
    if scale not in SCALES:
        raise UserError(f"clip_scale={scale}: {nearest(str(scale), list(SCALES))}")
    return SCALES[scale](cosines(image_embeddings, text_embeddings))


def read_prompts(path: str | Path) -> list[str] | dict[str, str]:
    """The prompts of a file: a .txt file with one a line, a .json list of strings, or by name.

    By name is a .json object of the samples' names and their prompts.

    Raises:
        UserError: for a file that is missing, empty, damaged or of another kind, and for an empty
            prompt, by its line or place (from 1).
    """
    path = Path(path)
    named = f"prompts={path}"
    if path.suffix not in (".txt", ".json"):
        raise UserError(f"{named}: neither a .txt file of lines nor a .json list of strings")
    try:
        text = path.read_text(encoding="utf-8-sig")
        prompts = (
            json.loads(text) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
        )
    except FileNotFoundError as error:
        raise UserError(f"{named}: no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{named}: cannot be read ({error})") from error
    texts = list(prompts.values()) if isinstance(prompts, dict) else prompts
    if not isinstance(texts, list) or not all(isinstance(prompt, str) for prompt in texts):
        raise UserError(f"{named}: not a list of strings")
    if not any(texts):
        raise UserError(f"{named}: no prompts in it")
    place = "line" if path.suffix == ".txt" else "item"
    for number, prompt in enumerate(texts, 1):
        if not prompt.strip():
            raise UserError(f"{named}: {place} {number} is empty; every sample needs its prompt")
    return prompts
