"""The precision of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRECISIONS = ("float32", "tf32", "bfloat16")


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
    kind = torch.device(device).type
    try:
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
