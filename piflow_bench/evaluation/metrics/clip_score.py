"""How well images fit their prompts, on the scales in which CLIP scores are told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda cosine: cosine,
    "hessel": lambda cosine: 2.5 * np.maximum(cosine, 0),
    "percent": lambda cosine: 100 * np.maximum(cosine, 0),
}
"""The scales in use: the bare cosine, Hessel et al. 2021 (section 3, w = 2.5), and percent."""


def on_scale(cosines: np.ndarray, scale: str) -> np.ndarray:
    """CLIP scores ``(n,)`` of cosines of CLIP's embeddings of images and prompts.

    Args:
        cosines: ``(n,)``, -1 to 1.
        scale: cosine (-1 to 1), hessel (0 to 2.5) or percent (0 to 100); the latter two cut
            negative cosines to 0.
    """
    return SCALES[scale](cosines)
