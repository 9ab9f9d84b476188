"""Whose turn a step is, of parts of a loss that are trained in turn."""

from __future__ import annotations

from math import sqrt

GOLDEN = (sqrt(5) - 1) / 2


def turn(step: int) -> float:
    """A number in [0, 1) of a step, from 0: a part that has a share of it comes evenly.

    Multiples of the golden ratio: among any n steps the count of a part is its share of them
    within one or two.
    """
    return step * GOLDEN % 1
