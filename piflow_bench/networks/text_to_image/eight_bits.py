"""A frozen transformer whose blocks keep their weights in 8 bits: half the memory of 16.

Every row of a linear layer's weight is divided by its largest value and rounded to one of 255
levels (absolute maximum quantisation, as of LLM.int8(), arXiv:2208.07339, section 2, without its
outliers). Inputs, sums and adapters keep their precision: a layer's weight is made anew for every
call, and so not kept for the backward pass where blocks are recomputed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 127
"""Of one sign."""


class EightBits(nn.Module):
    """A frozen linear layer, ``weight (out, in)`` int8 and ``scale (out, 1)`` float32."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        given = layer.weight.detach().float()
        scale = given.abs().amax(1, keepdim=True) / LEVELS
        scale[scale == 0] = 1.0  # A row of zeros stays one.
        self.register_buffer("weight", (given / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, in x's precision."""
        weight = self.weight.to(x.dtype) * self.scale.to(x.dtype)
        return functional.linear(x, weight, self.bias)


@torch.no_grad()
def keep_in_eight_bits(blocks: Iterable[nn.Module]) -> None:
    """Replace all linear layers of blocks, one after the other: a layer's 16 bits go at once.

    Before there are roles, which hook the layers that they change.
    """
    for block in blocks:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                assert not layer._forward_hooks, f"{name} is changed by a role"
                parent, _, last = name.rpartition(".")
                setattr(block.get_submodule(parent), last, EightBits(layer))
                del layer
