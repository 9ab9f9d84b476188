"""The Fréchet distance against golden values, closed forms and exact leave-out values."""

import numpy as np
import pytest

from piflow_bench.evaluation.metrics import frechet as F
from piflow_bench.evaluation.metrics import spectral
from piflow_bench.evaluation.moments import Moments
from piflow_bench.evaluation.uncertainty import jackknife_error

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(60, 5)), RNG.normal(0.3, 1.2, size=(80, 5))


def fd_of(x, y):
    return F.fd(Moments.from_features(x), Moments.from_features(y))


def test_golden(golden):
    found = fd_of(golden.gen, golden.ref)
    assert found == pytest.approx(golden.values["fd"], rel=1e-5)
    assert found == pytest.approx(golden.values["fd_float64"], rel=1e-9)


def test_fd_closed_form_of_commuting_covariances():
    a = Moments(11, np.array([1.0, 0.0, 2.0]), 10 * np.diag([1.0, 4.0, 9.0]))
    b = Moments(11, np.zeros(3), 10 * np.diag([4.0, 4.0, 1.0]))
    assert F.fd(a, b) == pytest.approx(1 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2)


def test_fd_of_non_commuting_covariances_equals_eigenvalues_of_the_product():
    a, b = Moments.from_features(X @ RNG.normal(size=(5, 5))), Moments.from_features(Y)
    roots = np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).real).sum()
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance) - 2 * roots
    assert F.fd(a, b) == pytest.approx(expected, rel=1e-10)
    assert F.fd(b, a) == pytest.approx(expected, rel=1e-10)


def test_fd_identity_is_zero():
    assert abs(fd_of(X, X)) < 1e-10


@pytest.mark.parametrize("n", [3, 20])
def test_fd_with_fewer_samples_than_dimensions_equals_the_nuclear_norm(n):
    x, y = RNG.normal(size=(n, 40)), RNG.normal(size=(n + 4, 40))
    xc, yc = x - x.mean(0), y - y.mean(0)
    nuclear = np.linalg.norm(xc @ yc.T, "nuc") / np.sqrt((len(x) - 1) * (len(y) - 1))
    expected = (
        ((x.mean(0) - y.mean(0)) ** 2).sum()
        + (xc**2).sum() / (len(x) - 1)
        + (yc**2).sum() / (len(y) - 1)
        - 2 * nuclear
    )
    assert fd_of(x, y) == pytest.approx(expected, rel=1e-6)
    assert fd_of(x, x) == pytest.approx(0, abs=1e-5)


def test_fd_of_rank_deficient_features():
    flat = X @ np.diag([1.0, 1, 1, 0, 0])
    assert abs(fd_of(flat, flat)) < 1e-6
    assert fd_of(flat, Y) == pytest.approx(fd_of(Y, flat), rel=1e-6)
    constant = np.ones((10, 5))
    assert fd_of(constant, constant) == pytest.approx(0, abs=1e-12)


def test_frechet_reference_is_fd():
    reference = F.FrechetReference(Moments.from_features(Y))
    assert reference.distance(Moments.from_features(X)) == pytest.approx(fd_of(X, Y), rel=1e-12)


def test_fd_infinity_removes_the_bias_in_n():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 16)), rng.normal(size=(40000, 16))
    reference = F.FrechetReference(Moments.from_features(y))
    biased = reference.distance(Moments.from_features(x))
    assert abs(F.fd_infinity(x, reference)) < biased / 3


def test_fd_equals_torch_fidelity():
    torch = pytest.importorskip("torch")
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    stats = [metric.fid_features_to_statistics(torch.tensor(z)) for z in (X, Y)]
    theirs = metric.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert fd_of(X, Y) == pytest.approx(theirs, rel=1e-6)


def skewed(n, d, seed, shift=0.0):
    """Non-negative, correlated features ``(n, d)`` of falling spectrum."""
    mixing = np.random.default_rng(1).normal(size=(d, d)) * np.arange(1, d + 1)[:, None] ** -0.5
    return np.logaddexp(0, np.random.default_rng(seed).normal(size=(n, d)) @ mixing + shift)


def heavy(n, d, seed, shift=0.0):
    return (skewed(n, d, seed, shift) + 1) ** 2


def dead(n, d, seed, shift=0.0):
    """Half of the features are constant."""
    return skewed(n, d, seed, shift) * (np.arange(d) % 2)


CASES = [(draw, n, shift) for draw in (skewed, heavy, dead) for n, shift in ((240, 0.3), (600, 0))]


def both_ways(call, monkeypatch):
    """Exact leave-out values, and those that an expansion may take the place of."""
    (value, exact), _ = call(), monkeypatch.setattr(spectral, "EXACT_FEATURES", 0)
    again, expanded = call()
    assert again == pytest.approx(value, rel=1e-6, abs=1e-9)
    return np.array(exact), np.array(expanded)


@pytest.mark.parametrize(("draw", "n", "shift"), CASES)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_replicates_by_expansion_are_the_exact_ones(draw, n, shift, scale, monkeypatch):
    """Away from the reference and at the ceiling, with much data a feature and with little.

    With little of heavy tails intervals may be a tenth wider, hardly narrower.
    """
    x, y = scale * draw(n, 64, 2, shift), scale * draw(n, 64, 3)
    reference, blocks = F.FrechetReference(Moments.from_features(y)), np.arange(n) % 20
    exact, expanded = both_ways(lambda: F.fd_with_replicates(x, blocks, reference), monkeypatch)
    assert not np.array_equal(exact, expanded)
    assert 0.95 < jackknife_error(expanded) / jackknife_error(exact) < 1.12
    assert np.corrcoef(exact, expanded)[0, 1] > 0.98


def test_replicates_of_two_samples_stay_paired(monkeypatch):
    """The interval of a difference is as narrow as with exact values."""
    noise = np.random.default_rng(0).normal(size=(600, 64))
    sides = np.logaddexp(0, noise), np.logaddexp(0, 1.05 * noise + 0.02)
    reference = F.FrechetReference(Moments.from_features(skewed(900, 64, 1)))
    blocks = np.arange(600) % 20

    def difference():
        a, b = (F.fd_with_replicates(side, blocks, reference) for side in sides)
        return a[0] - b[0], np.array(a[1]) - np.array(b[1])

    exact, expanded = (jackknife_error(each) for each in both_ways(difference, monkeypatch))
    assert 0.95 < expanded / exact < 1.05


@pytest.mark.parametrize("size", [3, 6, 20])
@pytest.mark.parametrize("off", ["a sample", "forty samples", "a block"])
def test_outliers_widen_intervals_by_a_fifth_at_most(off, size, monkeypatch):
    x, blocks = skewed(600, 64, 2), np.arange(600) % 20
    rows = {"a sample": [7], "forty samples": slice(40), "a block": blocks == 3}
    x[rows[off]] *= size
    reference = F.FrechetReference(Moments.from_features(skewed(600, 64, 3)))
    exact, found = both_ways(lambda: F.fd_with_replicates(x, blocks, reference), monkeypatch)
    assert 0.95 < jackknife_error(found) / jackknife_error(exact) < 1.25


def test_copies_of_the_reference_are_left_out_exactly(monkeypatch):
    """Their distance is 0, its least: no derivative tells the blocks apart."""
    x, blocks = skewed(600, 64, 2), np.arange(600) % 20
    reference = F.FrechetReference(Moments.from_features(x))
    exact, found = both_ways(lambda: F.fd_with_replicates(x, blocks, reference), monkeypatch)
    np.testing.assert_array_equal(exact, found)


@pytest.mark.parametrize("spoil", ["a sample far off", "a block far off", "few samples"])
def test_where_the_expansion_does_not_hold_replicates_are_exact(spoil, monkeypatch):
    n = 120 if spoil == "few samples" else 600
    x = skewed(n, 64, 2)
    blocks = np.arange(n) % 20
    off = {"a sample far off": np.arange(n) == 7, "a block far off": blocks == 3}
    x[off.get(spoil, [])] *= 100
    reference = F.FrechetReference(Moments.from_features(skewed(n, 64, 3)))
    exact, found = both_ways(lambda: F.fd_with_replicates(x, blocks, reference), monkeypatch)
    np.testing.assert_array_equal(exact, found)


@pytest.mark.parametrize("n", [3, 20, 40])
@pytest.mark.parametrize("flat", [False, True])
def test_fewer_samples_than_features_are_scored_by_their_products(n, flat):
    x, y = skewed(n, 40, 2) + 3, skewed(60, 40, 3)
    if flat:
        x[:, :35] = 1
    reference, blocks = F.FrechetReference(Moments.from_features(y)), np.arange(n) % min(n, 20)
    if n == 3:
        blocks = np.zeros(3, int)
    value, left = F.fd_with_replicates(x, blocks, reference)
    assert value == pytest.approx(fd_of(x, y), rel=1e-6)
    for b, found in enumerate(left):
        if (blocks != b).sum() > 1:
            assert found == pytest.approx(fd_of(x[blocks != b], y), rel=1e-6)
    assert len(left) == (0 if n == 3 else 20)


def test_a_few_features_are_never_expanded(monkeypatch):
    monkeypatch.setattr(F.FrechetReference, "expanded", None)
    blocks = np.arange(60) % 5
    F.fd_with_replicates(X, blocks, F.FrechetReference(Moments.from_features(Y)))


@pytest.mark.parametrize(("n", "shift"), [(1200, 0.3), (2000, 0)])
def test_replicates_at_infinity_by_expansion(n, shift, monkeypatch):
    """Subsets without a block lose its rows and take some that came after them."""
    x, y = skewed(n, 64, 2, shift), skewed(2000, 64, 3)
    reference, blocks = F.FrechetReference(Moments.from_features(y)), np.arange(n) % 20
    exact, found = both_ways(
        lambda: F.fd_infinity_with_replicates(x, blocks, reference), monkeypatch
    )
    assert not np.array_equal(exact, found)
    assert 0.9 < jackknife_error(found) / jackknife_error(exact) < 1.1
    assert np.corrcoef(exact, found)[0, 1] > 0.97


@pytest.mark.parametrize("rows, rank", [(5, 4), (40, 12)])
def test_a_covariance_is_its_factor_squared(rows, rank):
    """With fewer rows than directions, and with directions in which nothing varies."""
    x = RNG.normal(size=(rows, 12)) * np.logspace(-2, 2, 12)
    covariance = Moments.from_features(np.hstack([x, np.ones((rows, 1)), x[:, :1]])).covariance
    factor, triangular = F._factor(covariance)
    assert not triangular and factor.shape == (14, rank)
    assert np.abs(factor @ factor.T - covariance).max() < 1e-14 * covariance.max()
