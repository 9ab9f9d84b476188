"""Do 95 % intervals hold the truth? ``python -m tests.simulations.intervals`` (minutes on a core).

Two students of one quality are scored against one reference, again and again: their samples come
from one mixture of classes and share labels and most of their noise, as those of a run do. Labels
are *drawn* (each for itself), come *in turn* (balanced), or in turn and then *sorted* by class; or
the samples are *a part* of four times as many, whose classes are drawn and unlike in size, taken as
``evaluate n=`` takes it: it keeps the shares of classes. The mixture is that of the reference (*at
the ceiling*), or has its classes elsewhere (*away*). Every draw goes through
``evaluate_with_replicates`` with its labels: ``tests/evaluation/test_doors.py`` and
``tests/pipeline/test_metric_stages.py`` show that ``evaluate``, ``evaluate_features`` and the
stages of a run give its bits.

The truth of a difference between the two students is 0. That of a metric is its mean over the
draws, since intervals claim the expectation at this n and this reference; at the ceiling KID and
energy distance must hold 0 as well.

``--wide`` has four samples a feature and leave-out values by expansion (``spectral``), as they are
taken of a network's thousands of features; ``--wide --exact`` the same by decompositions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.evaluation.metrics import spectral
from piflow_bench.evaluation.subsets import subset
from piflow_bench.evaluation.uncertainty import Difference, jackknife_difference, t_quantile

DESIGNS = ("drawn", "in turn", "sorted", "a part")
PLACES = ("at the ceiling", "away")
METRICS = ("fd", "kid", "kid_exact", "energy_distance", "vendi")
ZERO = ("kid", "kid_exact", "energy_distance")
"""Unbiased distances: 0 on average between samples of one distribution."""
NOISE_SHARED = 0.9
WHOLE = 4
"""Samples that a part is taken from, over those taken."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Size:
    """How large the samples of a simulation are."""

    n: int = 200
    m: int = 1600
    d: int = 8
    classes: int = 5
    subsets: int = 40
    """Enough for KID to look at most of the reference: chance in a few of its rows is no part of
    an interval, and 0 would be missed by it."""
    subset_size: int = 60


WIDE = Size(n=256, m=512, d=64, subset_size=100)


@dataclass(frozen=True)
class Row:
    """What became of one metric in one cell."""

    design: str
    place: str
    metric: str
    draws: int
    holds: float
    """Share of intervals that hold the truth."""
    holds_zero: float
    """The same of 0, where it is the truth of fresh samples on both sides; NaN elsewhere."""
    width_ratio: float
    """Mean half-width over what it would be with the true standard deviation."""
    mean: float
    sd: float


class Mixture:
    """Classes of non-negative, skewed, correlated features, as a network gives them."""

    def __init__(self, size: Size, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.size = size
        self.centres = rng.normal(0, 1.5, (size.classes, size.d))
        self.mixing = np.linalg.qr(rng.normal(size=(size.d, size.d)))[0]
        self.mixing *= np.linspace(1.5, 0.5, size.d)
        self.shift = 0.5 * np.abs(rng.normal(size=size.d))

    def labels(self, design: str, n: int, rng: np.random.Generator) -> np.ndarray:
        """Classes ``(n,)``."""
        classes = self.size.classes
        if design == "drawn":
            return rng.integers(classes, size=n)
        if design == "a part":
            shares = np.arange(1, classes + 1)
            return rng.choice(classes, size=n, p=shares / shares.sum())
        labels = np.arange(n) % classes
        return np.sort(labels) if design == "sorted" else labels

    def sample(self, design: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, Design]:
        """Classes ``(n,)`` of scored samples, and how these were drawn."""
        if design != "a part":
            labels = self.labels(design, n, rng)
            return labels, Design.of(n, labels)
        whole = self.labels(design, WHOLE * n, rng)
        places = subset(len(whole), n, whole)
        return whole[places], Design.part(places, whole)

    def features(self, labels: np.ndarray, noise: np.ndarray, place: str) -> np.ndarray:
        """Samples ``(n, d)``."""
        shift = self.shift if place == "away" else 0.0
        return np.logaddexp(0.0, self.centres[labels] + shift + noise @ self.mixing)


def draws(
    mixture: Mixture, design: str, place: str, count: int
) -> Iterator[dict[str, tuple[float, float, float]]]:
    """Value, low and high of every metric of one student, and of the FDs' paired difference."""
    size = mixture.size
    rng = np.random.default_rng([DESIGNS.index(design), PLACES.index(place)])
    of_reference = mixture.labels(design, size.m, rng)
    noise = rng.normal(size=(size.m, size.d))
    reference = mixture.features(of_reference, noise, "at the ceiling")
    settings = {"kid_subsets": size.subsets, "kid_subset_size": size.subset_size}
    for _ in range(count):
        labels, drawn = mixture.sample(design, size.n, rng)
        known = {
            "extras": Extras(labels=labels, design=drawn),
            "reference_labels": of_reference,
        }
        noise, own = rng.normal(size=(2, size.n, size.d))
        other = NOISE_SHARED * noise + np.sqrt(1 - NOISE_SHARED**2) * own
        x, y = (mixture.features(labels, each, place) for each in (noise, other))
        ours = evaluate_with_replicates(x, reference, METRICS, **known, **settings)
        found = {v.metric: (v.value, v.ci_low, v.ci_high) for v in ours if v.metric in METRICS}
        (fd,) = evaluate_with_replicates(y, reference, ["fd"], **known)
        gap: Difference = jackknife_difference(
            ours[0].value, ours[0].replicates, fd.value, fd.replicates
        )
        found["fd difference"] = (gap.difference, gap.low, gap.high)
        yield found


def simulate(design: str, place: str, count: int, size: Size = Size()) -> list[Row]:
    """One cell of the simulation."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for draw in draws(Mixture(size), design, place, count):
        for name, each in draw.items():
            found.setdefault(name, []).append(each)
    rows = []
    for name, each in found.items():
        values, low, high = np.array(each).T
        truth = 0.0 if name == "fd difference" else values.mean()
        zero = name in ZERO and place == "at the ceiling"
        sd = values.std(ddof=1)
        rows.append(
            Row(
                design,
                place,
                name,
                count,
                holds=float(np.mean((low <= truth) & (truth <= high))),
                holds_zero=float(np.mean((low <= 0) & (high >= 0))) if zero else float("nan"),
                width_ratio=float(np.mean(high - low) / 2 / t_quantile(0.95, 19) / sd),
                mean=float(values.mean()),
                sd=float(sd),
            )
        )
    return rows


def main() -> None:
    """Simulate all cells and write the table."""
    parser = argparse.ArgumentParser(description="Do 95 % intervals hold the truth?")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    size, name = Size(), "intervals"
    if arguments.wide:
        size, name = WIDE, "intervals_wide_exact" if arguments.exact else "intervals_wide"
        spectral.EXACT_FEATURES = 10**9 if arguments.exact else 0
    rows: list[Row] = []
    started = time.monotonic()
    for design in DESIGNS:
        for place in PLACES:
            rows += simulate(design, place, arguments.draws, size)
            print(f"{design}, {place}: {time.monotonic() - started:.0f} s", flush=True)
            table = pd.DataFrame(map(asdict, rows)).round(6)
            table.to_csv(arguments.results / f"{name}.csv", index=False)
    about = {"draws": arguments.draws, **asdict(size)}
    print(pd.DataFrame(map(asdict, rows)).to_string(), json.dumps(about), sep="\n")


if __name__ == "__main__":
    main()
