"""The precision of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")


def bfloat16(device: str, enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16 in which weights may change, and be used with gradient and without.

    torch would keep their casts to the region's end: with the values that they had, and (in 2.6)
    without gradient if that was how they were used first.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled, cache_enabled=False)


@contextmanager
def products(device: str, precision: str) -> Iterator[None]:
    """Inside it products of float32 tensors are computed in a precision; what was set comes back.

    Args:
        device: cpu, cuda or cuda:1.
        precision: float32 (autocast and TF32 are off), tf32 (a GPU's shorter products) or bfloat16
            (autocast). Products of float64 tensors stay what they are.
    """
    backends: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision == "tf32"
    try:
        with bfloat16(device, enabled=precision == "bfloat16"):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
