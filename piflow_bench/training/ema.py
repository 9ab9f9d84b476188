"""Exponential moving averages of parameters."""

from __future__ import annotations

import torch
from torch import nn

from piflow_bench.training.distributed import local
from piflow_bench.training.settings import EMASettings


class EMA:
    """Average of one module's parameters, sharded as they are; buffers are copied, not averaged."""

    def __init__(self, module: nn.Module, settings: EMASettings) -> None:
        self.module, self.settings = module, settings
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.updates = 0

    def decay(self) -> float:
        """beta of the next update."""
        if self.settings.kind == "fixed":
            return self.settings.decay
        return (1 - 1 / (self.updates + 1)) ** (self.settings.gamma + 1)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the module's present parameters."""
        beta = self.decay()
        self.updates += 1
        parameters = dict(self.module.named_parameters())
        names = [k for k in self.average if k in parameters]
        torch._foreach_lerp_(
            [local(self.average[k]) for k in names],
            [local(parameters[k].detach()) for k in names],
            1 - beta,
        )
        for k, buffer in self.module.named_buffers():
            if k in self.average:
                self.average[k].copy_(buffer)
