"""The interface of a student: the only thing the sampler sees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

from piflow_bench.contracts.condition import Condition
from piflow_bench.randomness import SampleRandom


class Student:
    """Maps noise to samples with a fixed number of evaluations of ``self.network``.

    ``network(x, t, condition, ...)`` is whatever the method trained. The harness binds a counting
    handle in its place before it samples; every evaluation must go through ``self.network``.
    """

    network: Callable[..., Any]

    def bind(self, network: Callable[..., Any]) -> Self:
        """A shallow copy that calls ``network`` instead."""
        bound = copy.copy(self)
        bound.network = network
        return bound

    def sample(
        self, noise: Tensor, condition: Condition, nfe: int, random: SampleRandom, **settings: Any
    ) -> Tensor:
        """Samples x0 ``(B, *sample)`` from noise of the same shape, in exactly ``nfe`` evaluations.

        ``random.normal(step, shape)`` gives per-sample draws for stochastic samplers.
        """
        raise NotImplementedError("a student must define sample()")
