"""Gradient synchronisation over processes.

Gradients are averaged by an explicit all-reduce after the backward pass instead of a wrapper's
hooks: forward-mode derivatives call the inner module and would bypass such hooks silently.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) outside a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes, in one flat message."""
    _, size = world()
    if size == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    flat /= size
    offset = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()
