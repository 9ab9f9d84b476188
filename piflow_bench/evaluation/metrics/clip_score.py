"""How well images fit their prompts: cosines of CLIP's embeddings of both."""

from __future__ import annotations

from collections.abc import Callable

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
