"""Sums over a spectrum by expansion, against decompositions."""

import numpy as np
import pytest

from piflow_bench.evaluation.metrics import spectral
from piflow_bench.evaluation.metrics.spectral import ENTROPY, ROOT

RNG = np.random.default_rng(0)
VALUES = np.sort(RNG.uniform(0.01, 1, 12))
VALUES[4] = VALUES[3]  # A double eigenvalue: the divided difference is the second derivative.


def symmetric(size):
    a = RNG.normal(size=(12, 12))
    return size * (a + a.T) / np.sqrt(24)


def expanded(summand, changes):
    return spectral.replicates(summand, VALUES, lambda b: changes[b].copy(), len(changes))


def whole_and_changed(summand, relative):
    """The sum over the spectrum of A + E, by a decomposition."""
    root = np.sqrt(VALUES)
    changed = np.diag(VALUES) + relative * np.outer(root, root)
    return summand.total(np.linalg.eigvalsh(changed))


@pytest.mark.parametrize("summand", [ROOT, ENTROPY])
def test_the_error_of_an_expansion_is_of_third_order(summand):
    direction, off = symmetric(1.0), []
    for size in (0.05, 0.1):
        changes = [size * direction, -size * direction]
        found = expanded(summand, changes) - [whole_and_changed(summand, c) for c in changes]
        off.append(found[0] - found[1])  # What is of fourth order is the same in both.
    assert off[1] / off[0] == pytest.approx(8, rel=0.2) and abs(off[0]) < 1e-3


@pytest.mark.parametrize("summand", [ROOT, ENTROPY])
def test_the_second_order_matters(summand):
    """Equal influences: blocks are told apart by their curvature alone."""
    e, f = symmetric(0.2), symmetric(0.02)
    np.fill_diagonal(e, 0), np.fill_diagonal(f, 0)
    changes = [e, f]
    low, high = expanded(summand, changes)
    exact = [whole_and_changed(summand, each) for each in changes]
    assert high - low == pytest.approx(exact[1] - exact[0], rel=0.1) and high - low > 1e-3


@pytest.mark.parametrize("summand", [ROOT, ENTROPY])
def test_a_change_that_takes_a_direction_away_is_not_expanded(summand):
    gone = np.zeros((12, 12))
    gone[11, 11] = -1.0
    changes = [gone, np.zeros((12, 12))]
    assert expanded(summand, changes) is None


def test_changes_that_are_no_numbers_are_not_expanded():
    changes = [np.full((12, 12), np.nan), np.zeros((12, 12))]
    assert expanded(ROOT, changes) is None


def test_blocks_that_change_nothing_agree():
    found = spectral.replicates(ROOT, VALUES, lambda b: np.zeros((12, 12)), 3)
    np.testing.assert_allclose(found, ROOT.total(VALUES))


def test_what_may_be_expanded():
    few = spectral.EXACT_FEATURES
    assert not spectral.may_expand(few, 100 * few)
    assert spectral.may_expand(2048, 6144) and not spectral.may_expand(2048, 6143)


def test_eigenvalues_of_rounding_are_left_out():
    values = np.array([-1e-18, 1e-17, 1e-9, 1.0])
    assert spectral.positive(values).tolist() == [2, 3]
    assert not len(spectral.positive(np.zeros(4)))
