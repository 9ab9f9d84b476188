"""Texts as transformers read them: what text encoders made of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Encoded prompts of a batch."""

    hidden: Tensor
    """States of the text's places ``(B, L, D)``; padded ones lie at the end."""
    mask: Tensor | None = None
    """Which places are text ``(B, L)`` bool; None: all of them."""
    pooled: Tensor | None = None
    """A summary ``(B, P)``, where the transformer takes one."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Text:
        """On a device, in a precision."""
        mask = None if self.mask is None else self.mask.to(device)
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return Text(self.hidden.to(device, dtype), mask, pooled)


class Texts(Protocol):
    """Where conditions' encoded prompts are."""

    def __call__(self, condition: Any) -> Text:
        """The texts of a batch of conditions, on any device."""
        ...
