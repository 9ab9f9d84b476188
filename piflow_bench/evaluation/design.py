"""How a sample was drawn, and the blocks of the jackknife that keep it.

What is told apart is how much chance lies in the shares of groups (classes, prompts). In a
*balanced* design every group has the same number of samples, by decision: then there is none, and a
block holds every group in the same shares as the whole. Where each sample's group came out as it
did by chance, or is not known, all of that chance is part of the error, and blocks are drawn at
random, whatever order the samples are stored in: dealing out the groups there would hide what their
shares add to it. Between the two are n of N samples that were taken so as to keep the shares of all
N: the groups' shares have n/N of the chance that n draws have, and that part of the samples is
dealt at random, the rest group by group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from piflow_bench.laws import BY_PROMPT

BLOCKS = 20
_SEED = 2020


@dataclass(frozen=True)
class Strata:
    """Groups ``(n,)`` 0..C-1 with two samples or more, by which pair statistics are weighed."""

    groups: np.ndarray
    chance: float = 0.0
    """Variance of the groups' shares over that of n independent draws, 0 to 1."""
    joined: bool = False
    """Whether the last group is what was too small to be one."""

    def __str__(self) -> str:
        count = int(self.groups.max()) + 1
        if self.joined:
            return f"stratified by {count - 1} classes and the rest as one"
        return f"stratified by {count} classes"


@dataclass(frozen=True)
class Design:
    """``n`` samples, whose groups ``(n,)`` are ids 0..C-1; None where their shares are all chance.

    ``chance``: variance of the groups' shares over that of n independent draws.
    """

    n: int
    groups: np.ndarray | None = None
    chance: float = 0.0
    units: np.ndarray | None = None
    """Ids ``(n,)`` of what was drawn as a whole, such as a prompt with all its samples."""

    @classmethod
    def of(cls, n: int, labels: np.ndarray | None = None, law: str | None = None) -> Design:
        """The design of ``n`` samples with ``labels`` ``(n,)``.

        Args:
            n: number of samples.
            labels: group of every sample, None where they are not known.
            law: "balanced", another one (see ``contracts.data``), or None where nobody stated
                it: then it is balanced if the groups' sizes differ by at most 1, which draws hardly
                ever do. "by prompt": groups are what was drawn, each as a whole.
        """
        if labels is not None and law == BY_PROMPT:
            units = _by_appearance(labels)
            return cls(n) if _alone(np.bincount(units)) else cls(n, units=units)
        if labels is None or law not in (None, "balanced"):
            return cls(n)
        groups = _by_appearance(labels)
        sizes = np.bincount(groups)
        if _alone(sizes) or sizes.max() - sizes.min() > 1:
            return cls(n)
        return cls(n, groups)

    @classmethod
    def part(cls, places: np.ndarray, labels: np.ndarray | None) -> Design:
        """The design of the samples at ``places`` ``(n,)``, by ``subset`` of all ``labels`` (N,).

        Of a balanced whole it is balanced; else it has the shares of N draws.
        """
        n = len(places)
        if labels is None:
            return cls(n)
        if n == len(labels) or cls.of(len(labels), labels).groups is not None:
            return cls.of(n, labels[places])
        groups = _by_appearance(labels[places])
        return cls(n) if _alone(np.bincount(groups)) else cls(n, groups, n / len(labels))

    def blocks(self, count: int = BLOCKS) -> np.ndarray:
        """Block ids ``(n,)`` 0..g-1 of up to ``count`` blocks of 2 or more samples.

        Sizes differ by at most 1, and so do a balanced group's counts in the blocks. Two samples of
        one design have the same blocks, so that replicates of aligned samples are paired. Of what
        was drawn as a whole no part is in one block and another part in the next.
        """
        if self.units is not None:
            drawn = int(self.units.max()) + 1
            own = np.empty(drawn, dtype=np.int64)
            own[np.random.RandomState(_SEED).permutation(drawn)] = np.arange(drawn)
            blocks: np.ndarray = own[self.units] % max(2, min(count, drawn))
            return blocks
        count = max(2, min(count, self.n // 2))
        order = np.random.RandomState(_SEED).permutation(self.n)
        if self.groups is not None:
            dealt = self.groups[order]
            dealt[: round(self.chance * self.n)] = -1
            order = order[np.argsort(dealt, kind="stable")]
        ids = np.empty(self.n, dtype=np.int64)
        ids[order] = np.arange(self.n) % count
        return ids

    def strata(self, least: float = 2) -> Strata | None:
        """The groups as pair statistics need them; those of less than ``least`` samples are joined.

        None where nothing is known, or one group alone would be left.
        """
        if self.groups is None:
            return None
        sizes = np.bincount(self.groups)
        small = sizes < least
        if small.any() and sizes[small].sum() < least:
            small[np.argmin(np.where(small, self.n, sizes))] = True
        ids = np.cumsum(~small) - 1
        ids[small] = np.sum(~small)
        groups = ids[self.groups]
        return Strata(groups, self.chance, bool(small.any())) if groups.max() > 0 else None


def _by_appearance(labels: np.ndarray) -> np.ndarray:
    """Ids ``(n,)`` by first appearance: other names of the same groups give the same blocks."""
    _, first, ids = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[ids.ravel()]


def _alone(sizes: np.ndarray) -> bool:
    """Whether there is one group, or no two samples share one."""
    return len(sizes) == 1 or sizes.max() == 1


def table(groups: np.ndarray, blocks: np.ndarray, count: int | None = None) -> np.ndarray:
    """Samples ``(C, g)`` of every group in every block; ``count``: g, if not the largest id + 1."""
    shape = (int(groups.max()) + 1, count or int(blocks.max()) + 1)
    cells = np.ravel_multi_index((groups, blocks), shape)
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
