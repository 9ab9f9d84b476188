"""Which samples are shown: exact distances, stable picks, and a share that means something."""

import numpy as np
import pytest

from piflow_bench.evaluation.selection import extremes, nearest, share_below


def test_the_nearest_is_the_nearest():
    random = np.random.default_rng(0)
    base = (random.standard_normal((700, 5)) + 40).astype(np.float32)  # Far from the origin.
    queries = (random.standard_normal((1100, 5)) + 40).astype(np.float32)
    gaps = np.linalg.norm(queries[:, None].astype(float) - base[None], axis=2)
    distances, index = nearest(queries, base)
    np.testing.assert_allclose(distances, gaps.min(axis=1), rtol=1e-6)
    assert (gaps[np.arange(len(index)), index] <= gaps.min(axis=1) * (1 + 1e-6)).all()


def test_a_copy_is_at_distance_zero():
    base = np.random.default_rng(1).standard_normal((300, 64)).astype(np.float32) * 100
    distances, index = nearest(base[::-1], base)
    assert (distances == 0).all() and (index == np.arange(300)[::-1]).all()


def test_extremes_are_ordered_and_ties_go_by_index():
    scores = np.array([3.0, 1.0, 2.0, 1.0, 3.0])
    assert extremes(scores, 3, largest=False).tolist() == [1, 3, 2]
    assert extremes(scores, 3, largest=True).tolist() == [0, 4, 2]
    assert len(extremes(scores, 99, largest=True)) == 5


def test_the_share_is_the_level_for_the_usual_and_one_for_copies():
    random = np.random.default_rng(2)
    usual = random.random(4000)
    assert share_below(random.random(4000), usual) == pytest.approx(0.05, abs=0.012)
    assert share_below(np.zeros(10), usual) == 1.0
    assert share_below(np.full(10, 2.0), usual) == 0.0
