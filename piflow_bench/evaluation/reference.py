"""Facts of a reference set that every variant is measured with, computed once per process.

Radii, the covariance factor and sums over reference pairs cost more than a variant's own part. The
small facts are kept by the digest of the features; the features themselves are not.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar, cast

import numpy as np

from piflow_bench.evaluation.distances import (
    CMMD_SIGMA,
    FrechetReference,
    energy_reference,
    unit_rows,
)
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.neighbours import squared_radii
from piflow_bench.evaluation.pairs import distance_dtype, rbf_tile, self_sum
from piflow_bench.evaluation.polynomial import prefers_moments, reference_facts

T = TypeVar("T")

_KEPT = 32
_FACTS: OrderedDict[tuple, object] = OrderedDict()


class Reference:
    """Reference features ``(m, d)`` float64 and the facts derived from them.

    ``moments``, where given, are those of the whole reference set: ADM's files state them for all
    of ImageNet beside 10,000 images. ``features`` may then be empty ``(0, d)``.
    """

    def __init__(self, features: np.ndarray, moments: Moments | None = None):
        self.features, self._moments = features, moments

    @cached_property
    def _digest(self) -> str:
        rows = np.ascontiguousarray(self.features)
        return hashlib.sha256(rows.tobytes()).hexdigest() + str(rows.shape)

    def _fact(self, name: str, setting: object, compute: Callable[[], T]) -> T:
        key = (self._digest, name, setting)
        if key in _FACTS:
            _FACTS.move_to_end(key)
        else:
            _FACTS[key] = compute()
            while len(_FACTS) > _KEPT:
                _FACTS.popitem(last=False)
        return cast(T, _FACTS[key])

    def frechet(self) -> FrechetReference:
        """Moments with their covariance factored."""
        if self._moments is not None:
            return FrechetReference(self._moments)
        return self._fact(
            "frechet", None, lambda: FrechetReference(Moments.from_features(self.features))
        )

    def squared_radii(self, k: int, rows: int | None, block: int | None) -> np.ndarray:
        """Squared k-th neighbour radii of the first ``rows`` points (None: all)."""
        part = self.features[:rows]
        return self._fact("radii", (k, len(part)), lambda: squared_radii(part, k, block))

    def cubic(self, n: int) -> tuple[float, np.ndarray | None]:
        """KID's kernel over reference pairs, for use against ``n`` generated points."""
        moments = prefers_moments(n, *self.features.shape)
        return self._fact("cubic", moments, lambda: reference_facts(self.features, moments))

    def energy(self, n: int) -> float:
        """Distances over reference pairs, for use against ``n`` generated points."""
        dtype = distance_dtype(n, len(self.features))
        return self._fact("energy", dtype, lambda: energy_reference(self.features, n))

    def cmmd(self) -> float:
        """CMMD's kernel over reference pairs."""
        return self._fact(
            "cmmd", None, lambda: self_sum(unit_rows(self.features), rbf_tile(CMMD_SIGMA))
        )
