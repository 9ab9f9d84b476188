"""Facts of a reference set that every variant is measured with, computed once per process.

Radii, the covariance factor and sums over reference pairs cost more than a variant's own part. The
small facts are kept by the digest of the features; the features themselves are not.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from piflow_bench.evaluation.metrics.frechet import FrechetReference
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.pairs.polynomial import reference_facts as third_moments
from piflow_bench.evaluation.pairs.stratified import own_pairs
from piflow_bench.evaluation.settings import Settings

if TYPE_CHECKING:
    import torch

    from piflow_bench.evaluation.pairs.passes import ReferenceFacts, Wanted
    from piflow_bench.evaluation.pairs.tiles import Points

T = TypeVar("T")

_KEPT = 32
_FACTS: OrderedDict[tuple, object] = OrderedDict()


def factored(moments: Moments) -> FrechetReference:
    """Moments with their covariance factored, kept as the other facts are."""
    whole = hashlib.sha256(str(moments.n).encode())
    for part in (moments.mean, moments.scatter):
        whole.update(np.ascontiguousarray(part).data)
    key = (whole.hexdigest(), "frechet", None)
    if key not in _FACTS:
        _keep(key, FrechetReference(moments))
    _FACTS.move_to_end(key)
    return cast(FrechetReference, _FACTS[key])


def _keep(key: tuple, value: object) -> None:
    _FACTS[key] = value
    while len(_FACTS) > _KEPT:
        _FACTS.popitem(last=False)


class Reference:
    """Reference features ``(m, d)``, float32 or float64, and the facts derived from them.

    ``moments``, where given, are those of the whole reference set: ADM's files state them for all
    of ImageNet beside 10,000 images. ``rows`` may then be empty ``(0, d)``.
    """

    def __init__(self, rows: np.ndarray, moments: Moments | None = None):
        self.rows, self._moments = rows, moments

    @cached_property
    def features(self) -> np.ndarray:
        """The features in float64."""
        return np.asarray(self.rows, dtype=np.float64)

    @cached_property
    def _digest(self) -> str:
        rows = np.ascontiguousarray(self.rows)
        return hashlib.sha256(rows.data).hexdigest() + str((rows.shape, rows.dtype))

    def _fact(self, name: str, setting: object, compute: Callable[[], T]) -> T:
        key = (self._digest, name, setting)
        if key in _FACTS:
            _FACTS.move_to_end(key)
        else:
            self._keep(name, setting, compute())
        return cast(T, _FACTS[key])

    def _keep(self, name: str, setting: object, value: object) -> None:
        _keep((self._digest, name, setting), value)

    def frechet(self) -> FrechetReference:
        """Moments with their covariance factored."""
        if self._moments is not None:
            return factored(self._moments)
        return self._fact(
            "frechet", None, lambda: FrechetReference(Moments.from_features(self.rows))
        )

    def third_moments(self) -> tuple[float, np.ndarray]:
        """KID's kernel over reference pairs through third moments."""
        return self._fact("third moments", None, lambda: third_moments(self.features))

    def own_pairs(self, kernel: str, strata: np.ndarray, settings: Settings) -> float:
        """What its groups ``(m,)`` add to a kernel's sum (see ``stratified.own_pairs``)."""

        def compute() -> float:
            import torch

            from piflow_bench.evaluation.pairs.passes import KERNELS

            y = torch.from_numpy(self.features).to(settings.device)
            return float(own_pairs(KERNELS[kernel], y, strata, None, settings.block)[0])

        groups = hashlib.sha256(np.ascontiguousarray(strata).data).hexdigest()
        return self._fact("own pairs", (kernel, groups), compute)

    def pair_facts(self, wanted: Wanted, points: Points, settings: Settings) -> ReferenceFacts:
        """What the passes need to know of the reference; one pass for what is new.

        ``points`` are the features in the frame of the comparison. A frame's scale is a power of
        two, so that facts found in one hold to the bit in another of the same dtype.
        """
        from piflow_bench.evaluation.pairs.passes import ReferenceFacts, reference_facts

        k, dtype = settings.k, points.frame.dtype
        keys: dict[str, tuple[str, object]] = {
            name: ("kernel", (name, dtype)) for name in wanted.kernels
        }
        if wanted.balls or wanted.recall:
            keys["radii"] = ("radii", k)
        if wanted.authentic:
            keys["nearest"] = ("nearest", None)
        # Read before anything new is kept, which may push the oldest out.
        held = {
            what: _FACTS[(self._digest, *key)]
            for what, key in keys.items()
            if (self._digest, *key) in _FACTS
        }
        new = keys.keys() - held.keys()
        if new:
            found = reference_facts(
                points,
                sorted(new & wanted.kernels),
                k if "radii" in new else None,
                "nearest" in new,
                settings.block,
            )
            values = {
                **found.kernels, "radii": found.squared_radii, "nearest": found.nearest,
            }  # fmt: skip
            for what in new:
                self._keep(*keys[what], values[what])
                held[what] = values[what]
        on = {
            what: cast("torch.Tensor", held[what]).to(settings.device)
            for what in ("radii", "nearest")
            if what in held
        }
        return ReferenceFacts(
            {name: cast(float, held[name]) for name in wanted.kernels},
            on.get("radii"),
            on.get("nearest"),
        )
