"""What says how good a sample is, for methods that are trained to please it.

It is asked of pictures and need not be differentiable: a method learns what it would say. What
evaluates samples later, an extractor or the data's judge, must not be a reward as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from piflow_bench.contracts.condition import Condition
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.plugin import Place, Plugin

Score = Callable[[np.ndarray, Condition], np.ndarray]
"""Numbers ``(b,)``, higher for better, of pictures ``(b, h, w, c)`` uint8 and their conditions."""
Reward = Callable[[Tensor, Condition], Tensor]
"""The same ``(b,)`` of samples ``(b, *shape)``, on their device and without gradient."""


class RewardPlugin(Plugin):
    """What says how good a picture is for its condition."""

    kind: ClassVar[str] = "reward"
    rule: ClassVar[str] = ""
    """What its number is, in words: a part of its identity."""

    def identity(self) -> Mapping[str, Any]:
        """Its settings and its rule; nothing is loaded."""
        return {**super().identity(), "rule": self.rule}

    def lacks(self, dataset: Dataset) -> str | None:
        """What these data have not and it needs, such as "labels"; None where it is at home."""
        return None

    def load(self, dataset: Dataset, place: Place) -> Score:
        """The function that scores, of the training data alone where it learns from any.

        The same in every process to the bit.
        """
        raise NotImplementedError("a reward must define load()")
