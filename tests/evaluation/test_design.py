"""The blocks of the jackknife keep shares of classes where they were decided, and only there."""

import numpy as np
import pytest

from piflow_bench.evaluation.design import Design


def counts(labels, blocks):
    """Samples of every class in every block."""
    table = np.zeros((len(np.unique(labels)), blocks.max() + 1), dtype=int)
    np.add.at(table, (np.unique(labels, return_inverse=True)[1], blocks), 1)
    return table


@pytest.mark.parametrize("n", [7, 60, 250, 1797])
@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_blocks_have_the_shares_of_a_balanced_design(n, order):
    labels = np.arange(n) % 5 if order == "in turn" else np.arange(n) * 5 // n
    blocks = Design.of(n, labels).blocks()
    table = counts(labels, blocks)
    assert table.shape[1] == min(20, n // 2)
    assert np.ptp(table.sum(axis=0)) <= 1, "sizes of blocks"
    assert np.ptp(table, axis=1).max() <= 1, "each class in the blocks"


def test_a_block_is_no_stretch_of_the_samples_and_no_step_through_them():
    """The order of samples often means something: classes in turn, sorted, or sorted within."""
    for labels in (None, np.arange(2000) % 10, np.arange(2000) // 200):
        blocks = Design.of(2000, labels).blocks()
        for other in (np.arange(2000) // 100, np.arange(2000) % 20):
            together = counts(other, blocks)
            assert together.max() < 20, "of 100; about 5 by chance"


def test_names_of_classes_do_not_matter_and_samples_of_one_design_share_their_blocks():
    labels = np.arange(120) % 12
    blocks = Design.of(120, labels).blocks()
    assert np.array_equal(Design.of(120, labels.astype(str)).blocks(), blocks)
    assert np.array_equal(Design.of(120, (labels * 7 + 3) % 12).blocks(), blocks)
    assert np.array_equal(Design.of(120).blocks(), Design.of(120).blocks())


def test_what_counts_as_balanced():
    rng = np.random.default_rng(0)
    assert Design.of(255, np.arange(255) % 10).groups is not None
    assert Design.of(255, np.arange(255) % 10, "balanced").groups is not None
    drawn = rng.integers(10, size=255)
    unbalanced = [
        Design.of(255),
        Design.of(255, drawn),
        Design.of(255, drawn, "balanced"),
        Design.of(255, np.arange(255) % 10, "uniform"),
        Design.of(255, np.arange(255) % 10, "as data"),
        Design.of(255, np.zeros(255)),
        Design.of(255, np.arange(255)),
    ]
    assert all(each.groups is None for each in unbalanced)
    plain = Design.of(255).blocks()
    assert all(np.array_equal(each.blocks(), plain) for each in unbalanced)


def test_means_of_both_designs_have_the_error_that_they_have():
    """Classes far apart: whether their shares are chance or decision is nearly the whole error."""
    rng = np.random.default_rng(0)
    n, classes, repeats = 400, 8, 1500
    means = rng.normal(0, 3, classes)
    designs = {"balanced": [], "sorted": [], "drawn": [], "drawn, sorted": []}
    for _ in range(repeats):
        labels = np.arange(n) % classes
        drawn = rng.integers(classes, size=n)
        for name, each in (
            ("balanced", labels), ("sorted", np.sort(labels)),
            ("drawn", drawn), ("drawn, sorted", np.sort(drawn)),
        ):  # fmt: skip
            x = means[each] + rng.normal(size=n)
            blocks = Design.of(n, each).blocks()
            left = (x.sum() - np.bincount(blocks, weights=x)) / (n - np.bincount(blocks))
            error = np.sqrt(19 / 20 * np.sum((left - left.mean()) ** 2))
            designs[name].append((x.mean(), error))
    for name, found in designs.items():
        values, errors = np.array(found).T
        assert 0.9 < np.sqrt(np.mean(errors**2)) / values.std() < 1.12, name
