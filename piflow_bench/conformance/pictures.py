"""What pictures of samples must be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from piflow_bench.conformance.results import require


def check_pictures(pictures: Callable[[Tensor], np.ndarray], x: Tensor) -> str:
    """Pictures of samples are uint8 ``(n, h, w, c)``, and each depends on its own sample alone.

    Returns:
        Their size in words.

    Raises:
        Failure: naming what they are instead.
    """
    before = x.clone()
    whole = pictures(x)
    require(torch.equal(x, before), "pictures() changes the samples it is given")
    given = f"{getattr(whole, 'dtype', type(whole).__name__)} {getattr(whole, 'shape', '')}"
    require(
        isinstance(whole, np.ndarray) and whole.dtype == np.uint8,
        f"pictures() gives {given}; pictures are numpy arrays of uint8, 0 to 255",
    )
    require(
        whole.ndim == 4 and len(whole) == len(x) and whole.shape[3] in (1, 3),
        f"pictures() gives {given} for {len(x)} samples; pictures are (n, h, w, c), c 1 or 3",
    )
    require(
        np.array_equal(whole, pictures(x)), "pictures() gives others when called again: no draws"
    )
    # A dim sample beside bright ones, alone, and beside dimmer ones.
    dim, others = 0.5 * x[:1], x[1:]
    found = [pictures(torch.cat([dim, each]))[0] for each in (others, others[:0], 0.1 * others)]
    differ = np.ptp(np.stack(found).astype(int), axis=0).max()
    # A decoder's products are summed in another order in another batch: a level at most.
    require(
        differ <= 1,
        f"pictures() depends on the batch: a sample's differ by up to {differ} levels with what is "
        "beside it",
    )
    return "x".join(map(str, whole.shape[1:]))
