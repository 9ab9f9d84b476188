"""Do 95 % jackknife intervals hold the expectation 95 times in 100? By simulation.

The intervals claim the expectation of a metric at this n and against this reference. So the
reference is drawn once, generated sets are drawn again and again, and the mean of the metric over
them stands for its expectation. With R sets that mean is off by a standard deviation over sqrt R,
2 % of an interval's half-width here: it moves the share of intervals that hold it by less than a
thousandth. The share itself is known to 0.01 (binomial, 95 % of 500).

The jackknife sees the first-order part of a metric. Where that part does not rule, it cannot give
95 %, however well it is computed, and the cases that must cover keep away from there:

- Near equal distributions FD and KID are at their minimum and have no first-order part. KID is
  skewed even where its mean is 2 standard deviations: symmetric intervals hold it less often.
- A reference point counts in recall and coverage until the last generated point that reaches it is
  gone. Once most are reached, the parts of higher order outweigh the first; the jackknife counts
  them more than once (Efron & Stein 1981), so intervals are too wide: see the last test.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from piflow_bench.evaluation import uncertainty as U
from piflow_bench.evaluation.features import evaluate_with_replicates
from piflow_bench.evaluation.metrics import spectral

METRICS = ["fd", "kid", "kid_exact", "precision", "recall", "coverage"]
SUBSETS = {"kid_subsets": 10, "kid_subset_size": 200}
BLOCKS = 20
T_19 = 2.093024
"""P(|t| < T_19) = 0.95 with BLOCKS - 1 degrees of freedom."""


@dataclass(frozen=True)
class Simulated:
    """Values ``(R,)`` of one metric over R generated sets, and their intervals."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def half_width(self):
        return np.mean(self.high - self.low) / 2

    @property
    def hits(self):
        """Share of intervals that hold the expectation."""
        truth = self.values.mean()
        return np.mean((self.low <= truth) & (truth <= self.high))

    @property
    def error_ratio(self):
        """Standard error behind the intervals over the true one."""
        errors = (self.high - self.low) / 2 / T_19
        return np.sqrt(np.mean(errors**2)) / self.values.std(ddof=1)


def simulate(reference, draw, repetitions, metrics):
    """Intervals over generated sets; ``draw()`` gives two variants of one from the same noise."""
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


def shifted_normal(seed):
    """A reference, and a function that draws a generated set and a variant of it."""
    rng = np.random.default_rng(seed)
    n, m, d = 400, 1000, 10

    def draw():
        noise = rng.normal(size=(n, d))
        return noise + 0.9, 1.1 * noise + 0.72

    return rng.normal(size=(m, d)), draw


def skewed_features(seed):
    """The same for non-negative, correlated features of unequal spread, as a network gives them."""
    rng = np.random.default_rng(seed)
    n, m, d = 500, 800, 16
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.linspace(1.5, 0.7, d)
    shift = np.abs(rng.normal(size=d))
    shift /= np.sqrt(np.mean(shift**2))

    def features(latent):
        return np.logaddexp(0, latent @ mixing)

    def draw():
        noise = rng.normal(size=(n, d))
        return features(noise + shift), features(1.1 * noise + 0.9 * shift)

    return features(rng.normal(size=(m, d))), draw


def many_features(shift):
    """Fewer than seven samples a feature, away from the reference's distribution or in it."""
    rng = np.random.default_rng(0)
    n, m, d = 300, 900, 48
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.linspace(1.5, 0.3, d)

    def draw():
        noise = rng.normal(size=(n, d)) @ mixing
        other = 0.9 * noise + np.sqrt(1 - 0.9**2) * rng.normal(size=(n, d)) @ mixing
        return np.logaddexp(0, noise + shift), np.logaddexp(0, other + 0.9 * shift)

    return np.logaddexp(0, rng.normal(size=(m, d)) @ mixing), draw


def saturated(seed):
    """The same, with more generated than reference points, and those spread wider."""
    rng = np.random.default_rng(seed)
    n, m, d = 600, 400, 6

    def draw():
        noise = rng.normal(size=(n, d))
        return 1.2 * noise + 0.3, noise

    return rng.normal(size=(m, d)), draw


def check(found):
    hits = {name: each.hits for name, each in found.items()}
    assert {name: h for name, h in hits.items() if not 0.92 <= h <= 0.98} == {}
    # Sharper than the shares, which an error of 10 % hardly moves. Not for recall: the radii of the
    # generated points are of higher order too and make its error 1.1 to 1.3 times too large. It
    # misses as often as others all the same, since low values come with narrow intervals.
    ratios = {name: each.error_ratio for name, each in found.items() if name != "recall"}
    assert {name: r for name, r in ratios.items() if not 0.9 < r < 1.12} == {}
    assert found["paired fd"].half_width < found["fd"].half_width / 2


def test_intervals_cover_for_a_shifted_normal():
    check(simulate(*shifted_normal(0), 500, METRICS))


@pytest.mark.thorough
def test_intervals_cover_for_skewed_features():
    check(simulate(*skewed_features(0), 500, METRICS))


@pytest.mark.thorough
@pytest.mark.parametrize(("shift", "ratios"), [(0.5, (0.9, 1.1)), (0.0, (0.95, 1.4))])
def test_intervals_by_expansion_cover_as_exact_ones_do(shift, ratios, monkeypatch):
    """Leave-out values of the Fréchet distance and the Vendi score by ``spectral``'s expansion."""
    monkeypatch.setattr(spectral, "EXACT_FEATURES", 0)
    found = simulate(*many_features(shift), 300, ["fd", "vendi"])
    for name, each in found.items():
        # The share itself is known to 0.013: 95 % of 300.
        assert 0.92 <= each.hits <= (0.98 if shift else 1), name
        assert ratios[0] < each.error_ratio < ratios[1], name


def expected_error_ratio_of_coverage(reference, draw, n, sets=60, k=3):
    """What ``error_ratio`` of coverage is in theory, by the chances of balls and their unions.

    A ball of mass p stays empty with (1 - p)^n, and two of them with (1 - their union)^n; a
    replicate has h = n / g points fewer, and two replicates share n - 2 h.
    """

    def distances(x):
        return np.linalg.norm(x[:, None] - reference[None], axis=2)

    radii = np.sort(distances(reference), axis=1)[:, k]
    both = np.zeros((len(reference), len(reference)))
    for _ in range(sets):
        inside = (distances(draw()[0]) <= radii).astype(float)
        both += inside.T @ inside / (n * sets)
    single = np.diag(both)
    apart = np.outer(1 - single, 1 - single)
    neither = 1 - (single[:, None] + single - both)
    h = n // BLOCKS
    variance = np.mean(neither**n - apart**n)
    replicate = np.mean(neither ** (n - h) - apart ** (n - h))
    covariance = np.mean(neither ** (n - 2 * h) * apart**h - apart ** (n - h))
    return np.sqrt((BLOCKS - 1) ** 2 / BLOCKS * (replicate - covariance) / variance)


def test_intervals_of_saturated_shares_are_too_wide():
    """Recall of 0.96 and coverage of 0.84 err on the safe side, coverage by as much as it must."""
    reference, draw = saturated(0)
    found = simulate(reference, draw, 400, ["fd", "precision", "recall", "coverage"])
    assert 0.92 <= found["precision"].hits <= 0.98
    assert found["coverage"].hits > 0.96 and found["recall"].hits > 0.96
    expected = expected_error_ratio_of_coverage(reference, draw, 600)
    assert 1.15 < expected < 1.35
    assert abs(found["coverage"].error_ratio - expected) < 0.12
    assert 1.4 < found["recall"].error_ratio < 2.2


@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        (400, 1000, 10),
        pytest.param(400, 4000, 10, marks=pytest.mark.thorough),
        pytest.param(300, 3000, 6, marks=pytest.mark.thorough),
    ],
)
def test_at_the_ceiling_intervals_of_fd_are_too_wide_by_what_the_page_says(n, m, d):
    """Both sides drawn from the reference's distribution: FD is at its minimum, of second order.

    The page warns there of intervals about 1.5 times too wide and a test without power: narrower,
    or tighter than nominal, and that warning would be false.
    """
    rng = np.random.default_rng(0)

    def draw():
        return rng.normal(size=(n, d)), rng.normal(size=(n, d))

    found = simulate(rng.normal(size=(m, d)), draw, 300, ["fd"])
    for name in ("fd", "paired fd"):
        assert 1.2 < found[name].error_ratio < 1.7, name
        assert found[name].hits > 0.97, name
