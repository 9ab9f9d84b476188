"""Which pictures are held out, by what they show and not by where they lie.

Pictures of a class are put in the order of a keyed hash of their pixels, and its first ones are
held out. So the split depends on the pictures, their classes, the share and the seed alone: files
may be renamed and come in any order, and a few more pictures move few others. Equal pictures have
one hash, and go to one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from piflow_bench.errors import UserError


def split_rows(
    hashes: np.ndarray, labels: np.ndarray | None, held_out: float | int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows, int64, each ascending.

    Args:
        hashes: of every picture's content, uint8 ``(n, bytes)``.
        labels: classes ``(n,)`` int64, each of which gives its share; None: no classes. A picture
            that is there in several classes counts for the first of them.
        held_out: a share in (0, 1), or how many. Of every class with two different pictures at
            least one is held out and one is not; where several equal pictures would go beyond the
            class's share, fewer are held out.
        seed: of the choice.

    Raises:
        UserError: for a share or number that leaves either side, or a class, without pictures.
    """
    n = len(hashes)
    found, group = np.unique(hashes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    sizes = np.bincount(group)
    keys = [_rank(row.tobytes(), seed) for row in found]
    order = np.array(sorted(range(len(found)), key=keys.__getitem__))
    of_group = np.zeros(len(found), np.int64)
    if labels is not None:
        of_group[:] = np.iinfo(np.int64).max
        np.minimum.at(of_group, group, labels)
    classes = np.unique(of_group)
    members = [order[of_group[order] == label] for label in classes]
    counts = [int(sizes[m].sum()) for m in members]
    shares = _shares(counts, [len(m) > 1 for m in members], _total(held_out, n), held_out)
    chosen = np.zeros(len(found), bool)
    for groups, share in zip(members, shares, strict=True):
        chosen[_taken(groups, sizes, share)] = True
    held = chosen[group]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _rank(content: bytes, seed: int) -> bytes:
    return hashlib.blake2b(content, digest_size=16, key=f"held out {seed}".encode()).digest()


def _total(held_out: float | int, n: int) -> int:
    """How many are to be held out of ``n``."""
    share = isinstance(held_out, float)
    if not 0 < held_out < (1 if share else n):
        raise UserError(
            f"held_out={held_out}: a share between 0 and 1, or a number below that of the "
            f"pictures, {n}"
        )
    return round(held_out * n) if share else int(held_out)


def _shares(
    counts: Sequence[int], divisible: Sequence[bool], total: int, held_out: float | int
) -> list[int]:
    """How many every class gives: by largest remainders, at least one, and not all it has."""
    able = sum(divisible)
    if not able:
        raise UserError(
            f"held_out={held_out}: no class has two different pictures to be parted; give more"
        )
    if isinstance(held_out, int) and total < able:
        raise UserError(
            f"held_out={held_out}: fewer than the {able} classes, each of which gives at least "
            f"one; set held_out={able} or more"
        )
    quotas = np.array(counts) * total / sum(counts)
    most = np.where(divisible, np.array(counts) - 1, 0)
    shares = np.clip(np.floor(quotas).astype(np.int64), np.minimum(1, most), most)
    total = min(max(total, able), int(most.sum()))
    while shares.sum() < total:  # By what is owed, where there is more to give.
        free = np.flatnonzero(shares < most)
        shares[free[np.argmax((quotas - shares)[free])]] += 1
    while shares.sum() > total:  # The least of one was too much: by what is given beyond its part.
        free = np.flatnonzero(shares > 1)
        shares[free[np.argmax((shares / quotas)[free])]] -= 1
    return [int(share) for share in shares]


def _taken(groups: np.ndarray, sizes: np.ndarray, share: int) -> list[int]:
    """The groups of equal pictures that are held out of a class, in its order."""
    taken: list[int] = []
    count = 0
    for g in groups:
        if count + sizes[g] <= share:
            taken.append(int(g))
            count += int(sizes[g])
    if share and not taken:  # All are many times the same.
        taken = [int(groups[np.argmin(sizes[groups])])]
    return taken
