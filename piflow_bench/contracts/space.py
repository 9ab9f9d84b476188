"""What a sample is, and how it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from piflow_bench.contracts.plugin import Place, Plugin


@dataclass(frozen=True)
class Space:
    """Shape of a sample and its way to pictures and back."""

    shape: tuple[int, ...]
    """(C, *spatial) of a sample."""
    pictures: Callable[[Tensor], np.ndarray] | None = None
    """Samples ``(n, *shape)`` as pictures ``(n, h, w, c)`` uint8; None: they are points."""
    encode: Callable[[np.ndarray], Tensor] | None = None
    """Pictures ``(n, h, w, c)`` uint8 as samples, where that is possible."""
    bounded: bool = True
    """Whether samples of data lie in [-1, 1]."""
    chunk: int = 2000
    """Samples that are looked at between two words of progress."""


class SpacePlugin(Plugin):
    """A kind of space, which datasets have their samples in."""

    kind: ClassVar[str] = "space"

    def load(self, pictures: tuple[int, int, int], place: Place) -> Space:
        """The space of pictures of (height, width, channels).

        Raises:
            UserError: for pictures that it cannot hold.
        """
        raise NotImplementedError("a space must define load()")

    def pictures_of(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The size (height, width, channels) of the pictures that samples of a shape show.

        ``load`` of it gives that shape. By default samples are as large as their pictures; a space
        that changes the size says so here, and its samples can be scored outside of their run.
        """
        channels, height, width = (*shape, 1, 1)[:3]
        return height, width, channels
