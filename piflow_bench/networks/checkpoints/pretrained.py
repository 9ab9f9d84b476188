"""What loading a checkpoint gives, whatever its layout."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from torch import nn

N = TypeVar("N", bound=nn.Module)


class Pretrained(NamedTuple, Generic[N]):
    """A network from a checkpoint, in float32."""

    network: N
    digest: str
    """sha256 of the checkpoint."""
    taken: str
    """Which of the file's sets of weights it has; empty if it has one."""
