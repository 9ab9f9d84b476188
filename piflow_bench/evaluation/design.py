"""How a sample was drawn, and the blocks of the jackknife that keep it.

Two designs are told apart. In a *balanced* one every group (a class, a prompt) has the same number
of samples, by decision: then no chance lies in the groups' shares, and a block holds every group in
the same shares as the whole. In all others the groups of samples came out as they did by chance, or
are not known: then that chance is part of the error, and blocks are drawn at random, whatever order
the samples are stored in. Dealing out the groups there would hide what their shares add to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCKS = 20
_SEED = 2020


@dataclass(frozen=True)
class Design:
    """``n`` samples; ``groups`` ``(n,)`` are ids 0..C-1 of a balanced design, None of any other."""

    n: int
    groups: np.ndarray | None = None

    @classmethod
    def of(cls, n: int, labels: np.ndarray | None = None, law: str | None = None) -> Design:
        """The design of ``n`` samples with ``labels`` ``(n,)``.

        Args:
            n: number of samples.
            labels: group of every sample, None where they are not known.
            law: "balanced", another one (see ``data.dataset.LAWS``), or None where nobody stated
                it: then it is balanced if the groups' sizes differ by at most 1, which draws hardly
                ever do.
        """
        if labels is None or law not in (None, "balanced"):
            return cls(n)
        _, first, ids = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
        sizes = np.bincount(ids.ravel())
        alone = len(sizes) == 1 or sizes.max() == 1
        if alone or sizes.max() - sizes.min() > 1:
            return cls(n)
        # By first appearance: other names of the same groups give the same blocks.
        rank = np.argsort(np.argsort(first))
        return cls(n, rank[ids.ravel()])

    @property
    def law(self) -> str:
        """The law of the labels, as far as it is known, in words."""
        if self.groups is None:
            return "not stated"
        return f"balanced over {int(self.groups.max()) + 1} classes"

    def blocks(self, count: int = BLOCKS) -> np.ndarray:
        """Block ids ``(n,)`` 0..g-1 of up to ``count`` blocks of 2 or more samples.

        Sizes differ by at most 1, and so do a balanced group's counts in the blocks. Two samples of
        one design have the same blocks, so that replicates of aligned samples are paired.
        """
        count = max(2, min(count, self.n // 2))
        order = np.random.RandomState(_SEED).permutation(self.n)
        if self.groups is not None:
            order = order[np.argsort(self.groups[order], kind="stable")]
        ids = np.empty(self.n, dtype=np.int64)
        ids[order] = np.arange(self.n) % count
        return ids

    def strata(self, blocks: np.ndarray | None = None) -> np.ndarray | None:
        """The groups ``(n,)``, where all of them have pairs, also without any one block.

        None elsewhere: what is not there cannot be weighted.
        """
        if self.groups is None:
            return None
        sizes = np.bincount(self.groups)
        if blocks is not None and blocks.max() > 0:
            sizes = sizes[:, None] - table(self.groups, blocks)
        return self.groups if sizes.min() >= 2 else None


def table(groups: np.ndarray, blocks: np.ndarray, count: int | None = None) -> np.ndarray:
    """Samples ``(C, g)`` of every group in every block; ``count``: g, if not the largest id + 1."""
    shape = (int(groups.max()) + 1, count or int(blocks.max()) + 1)
    cells = np.ravel_multi_index((groups, blocks), shape)
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
