"""Discriminators on a frozen teacher's features of noised samples (LADD, arXiv 2403.12015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from piflow_methods.parts.fake_score import discriminator
from torch import Tensor, nn
from torch.nn.functional import softplus

from piflow_bench.api import Condition


class FeatureJudge(nn.Module):
    """Light heads on several depths of a network that stays as it is.

    The network is not a part of the module: it is neither trained nor kept in checkpoints.

    Args:
        network: the teacher's backbone.
        shares: depths as shares of its blocks, at least one block each.
    """

    def __init__(self, network: Any, shares: Sequence[float]) -> None:
        super().__init__()
        self._network = (network,)
        self.depths = sorted({max(int(share * network.depth), 1) for share in shares})
        self.heads = nn.ModuleList(
            discriminator(*network.feature_shape(depth)) for depth in self.depths
        )

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Logits ``(B, heads)``, high for real samples, of samples noised to times ``(B,)``."""
        (network,) = self._network
        logits = [
            head(network.features(x, t, condition, None, depth)).flatten()
            for head, depth in zip(self.heads, self.depths, strict=True)
        ]
        return torch.stack(logits, 1)


def judged_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's ``softplus(fake) + softplus(-real)``, over rows and heads."""
    return softplus(fake).mean() + softplus(-real).mean()


def deceiving_loss(fake: Tensor) -> Tensor:
    """The generator's ``softplus(-fake)``, over rows and heads."""
    return softplus(-fake).mean()
