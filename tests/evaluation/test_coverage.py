"""Do 95 % jackknife intervals hold the expectation 95 times in 100? By simulation.

The intervals claim the expectation of a metric at this n and against this reference. So the
reference is drawn once, generated sets are drawn again and again, and the mean of the metric over
them stands for its expectation. With R sets that mean is off by a standard deviation over sqrt R,
2 % of an interval's half-width here: it moves the share of intervals that hold it by less than a
thousandth. The share itself is known to 0.01 (binomial, 95 % of 500).

What the cases avoid, because no delete-block jackknife covers there, however it is computed:

- Equal distributions: FD and KID are near their minimum, where their first-order term vanishes.
  KID is skewed even at a distance of 2 standard deviations from 0, and its symmetric intervals then
  hold the expectation in 87 to 92 % of the sets.
- Recall or coverage near 1. A reference point is lost only when all that reach it are gone, so the
  terms of higher order, which a jackknife counts more than once (Efron & Stein 1981), outweigh the
  first. Intervals are too wide then: see ``test_intervals_of_saturated_shares_are_too_wide``.
"""

from dataclasses import dataclass

import numpy as np

from piflow_bench.evaluation import uncertainty as U
from piflow_bench.evaluation.features import evaluate_with_replicates

METRICS = ["fd", "kid", "kid_exact", "precision", "recall", "coverage"]
SUBSETS = {"kid_subsets": 10, "kid_subset_size": 200}
BLOCKS = 20


@dataclass(frozen=True)
class Simulated:
    """Values ``(R,)`` of one metric over R generated sets, and their intervals."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def hits(self):
        """Share of intervals that hold the expectation."""
        truth = self.values.mean()
        doubt = self.values.std() / len(self.values) ** 0.5
        assert doubt < 0.03 * np.mean(self.high - self.low) / 2
        return np.mean((self.low <= truth) & (truth <= self.high))

    @property
    def relative_error(self):
        """Standard error that the intervals are built on over the true one."""
        half = (self.high - self.low) / 2
        error = np.sqrt(np.mean(half**2)) / U.jackknife_interval(0, np.arange(BLOCKS)).high
        return error * U.jackknife_error(np.arange(BLOCKS)) / self.values.std(ddof=1)


def simulate(reference, draw, repetitions, metrics):
    """Intervals over generated sets, ``draw()`` giving two variants of each from one noise."""
    found = {}
    for _ in range(repetitions):
        a, b = draw()
        ours = evaluate_with_replicates(a, reference, metrics, **SUBSETS)
        (theirs,) = evaluate_with_replicates(b, reference, ["fd"])
        for each in ours:
            found.setdefault(each.metric, []).append((each.value, each.ci_low, each.ci_high))
        fd = ours[0]
        gap = U.jackknife_difference(fd.value, fd.replicates, theirs.value, theirs.replicates)
        found.setdefault("paired fd", []).append((gap.difference, gap.low, gap.high))
    found.pop("kid_std", None)
    return {name: Simulated(*np.array(rows).T) for name, rows in found.items()}


def check(found):
    hits = {name: each.hits for name, each in found.items()}
    assert {name: h for name, h in hits.items() if not 0.92 <= h <= 0.98} == {}
    # Sharper than the shares, which an error of 10 % hardly moves. Not for recall: its intervals
    # are a fifth too wide everywhere, as far as they are seen here.
    errors = {name: each.relative_error for name, each in found.items() if name != "recall"}
    assert {name: e for name, e in errors.items() if not 0.9 < e < 1.12} == {}
    half = np.mean(found["fd"].high - found["fd"].low) / 2
    assert np.mean(found["paired fd"].high - found["paired fd"].low) / 2 < half / 2


def test_intervals_cover_for_a_shifted_normal():
    rng = np.random.default_rng(3)
    n, m, d = 400, 1000, 10

    def draw():
        noise = rng.normal(size=(n, d))
        return noise + 0.9, 1.1 * noise + 0.72

    check(simulate(rng.normal(size=(m, d)), draw, 500, METRICS))


def test_intervals_cover_for_skewed_correlated_features():
    """Non-negative features of unequal spread, as of a network, that miss part of the reference."""
    rng = np.random.default_rng(4)
    n, m, d = 500, 800, 16
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.linspace(1.5, 0.7, d)
    shift = rng.exponential(size=d)
    shift /= np.sqrt(np.mean(shift**2))

    def features(latent):
        return np.logaddexp(0, latent @ mixing)

    def draw():
        noise = rng.normal(size=(n, d))
        return features(noise + shift), features(1.1 * noise + 0.9 * shift)

    check(simulate(features(rng.normal(size=(m, d))), draw, 500, METRICS))


def test_intervals_of_saturated_shares_are_too_wide():
    """Recall of 0.96 and coverage of 0.84: intervals err on the safe side, and by how much.

    For coverage the expected jackknife error has a closed form in the probabilities of the balls
    and of their unions: 1.23 times the true one in this case.
    """
    rng = np.random.default_rng(5)
    n, m, d = 600, 400, 6

    def draw():
        noise = rng.normal(size=(n, d))
        return 1.2 * noise + 0.3, noise

    found = simulate(rng.normal(size=(m, d)), draw, 400, ["fd", "precision", "recall", "coverage"])
    assert 0.92 <= found["precision"].hits <= 0.98
    for name, most in (("coverage", 1.4), ("recall", 1.9)):
        assert found[name].hits > 0.96 and 1.1 < found[name].relative_error < most
