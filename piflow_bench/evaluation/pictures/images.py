"""A set of equally large images, read in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from piflow_bench.evaluation.pictures.spaces import Look


def printable(text: str) -> str:
    """``text`` on one line that any file takes: names may hold newlines and bytes of no text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Images:
    """A set of equally large images, or those ``chosen`` of one.

    ``rows(places)`` gives the images ``(len(places), height, width, 3)`` uint8 at these places of
    the source.
    """

    path: str
    count: int
    height: int
    width: int
    rows: Callable[[np.ndarray], np.ndarray]
    fingerprint: Callable[[], str]
    """sha256 of the whole source."""
    warnings: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    """Class of every image ``(n,)``, as strings, where the source states them."""
    names: tuple[str, ...] | None = None
    """Path of every image below its folder, where it is a file."""
    source: Any = None
    """What was opened; None where it cannot be opened again."""
    workers: int = 2
    look: Look | None = None
    """What it took to open it."""
    chosen: np.ndarray | None = None
    """Places ``(n,)`` in the source; None for all of them."""

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images ``(stop - start, height, width, 3)`` uint8, in the set's order."""
        places = np.arange(start, stop) if self.chosen is None else self.chosen[start:stop]
        return self.rows(places)

    def digest(self) -> str:
        """sha256 of the images' content, in order."""
        whole = self.fingerprint()
        if self.chosen is None:
            return whole
        places = self.chosen.astype("<i8").tobytes()
        return hashlib.sha256(whole.encode() + places).hexdigest()

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Consecutive batches of ``size`` rows, the last one smaller."""
        for first in range(0, self.count, size):
            yield self.read(first, min(first + size, self.count))

    def take(self, places: np.ndarray) -> Images:
        """The images at these places of the set, in this order."""
        if np.array_equal(places, np.arange(self.count)):
            return self
        return replace(
            self,
            count=len(places),
            labels=None if self.labels is None else self.labels[places],
            names=None if self.names is None else tuple(self.names[i] for i in places),
            chosen=places if self.chosen is None else self.chosen[places],
        )
