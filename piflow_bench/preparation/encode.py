"""Images to latents: decoded and cropped ahead of the encoder, a batch at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.uint8 import signed
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation.job import Job, Preparation
from piflow_bench.preparation.pixels import centre_crop, decode
from piflow_bench.preparation.sources.source import ImageSource
from piflow_bench.randomness import SampleRandom

AHEAD = 2
"""Batches that are decoded ahead of the encoder."""


def decoded(job: Job, rows: range) -> Iterator[tuple[range, list[np.ndarray | None]]]:
    """Batches of rows with their cropped pixels, decoded by threads ahead of their use."""

    def pixels(i: int) -> np.ndarray | None:
        return _pixels(job.images, i, job.chosen)

    edges = range(rows.start, rows.stop, job.batch)
    groups = [range(start, min(start + job.batch, rows.stop)) for start in edges]
    with ThreadPoolExecutor(job.threads) as pool:
        ahead = [pool.map(pixels, group) for group in groups[:AHEAD]]
        for g, group in enumerate(groups):
            if g + AHEAD < len(groups):
                ahead.append(pool.map(pixels, groups[g + AHEAD]))
            yield group, list(ahead.pop(0))


def _pixels(images: ImageSource, i: int, chosen: Preparation) -> np.ndarray | None:
    """Cropped pixels ``(size, size, 3)`` uint8; None for a damaged image that may be skipped."""
    data = images.read(i)  # What fails here is the source, never to be skipped.
    try:
        return np.array(centre_crop(decode(data), chosen.size))
    except (OSError, ValueError, SyntaxError) as error:
        if chosen.skip_corrupt:
            return None
        # Pillow's words may name an object in memory.
        words = str(error).partition(" <")[0]
        raise UserError(
            f"{images.names[i]}: cannot be decoded ({words}); mend it, or leave such images out "
            "with skip_corrupt=true: whole shards are kept"
        ) from error


def encode(
    pixels: np.ndarray, rows: list[int], coder: Autoencoder, chosen: Preparation
) -> np.ndarray:
    """Latents ``(b, views, c, h, w)`` of images ``(b, size, size, 3)``."""
    # Bytes travel to a GPU, not floats.
    x = signed(torch.from_numpy(pixels).to(coder.device).permute(0, 3, 1, 2))
    views = [x, x.flip(-1)] if chosen.flip else [x]
    found = []
    for view, images in enumerate(views):
        mean, std = coder.encode(images)
        if chosen.kind == "sample":
            random = SampleRandom(chosen.seed, rows)
            noise = random.normal(view, mean.shape[1:], stream="latents").to(mean)
            found.append(mean + std * noise)
        else:
            found.append(torch.cat([mean, std], dim=1))
    return torch.stack(found, 1).cpu().numpy().astype(chosen.dtype)
