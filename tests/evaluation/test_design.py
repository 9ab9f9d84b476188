"""The blocks of the jackknife keep shares of classes where they were decided, and only there."""

import numpy as np
import pytest

from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.subsets import subset


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


@pytest.mark.parametrize("n", [30, 100, 399])
def test_a_part_keeps_what_is_known_of_the_whole(n):
    """Whether shares were decided is seen in all the labels, not in those of the part."""
    rng = np.random.default_rng(0)
    balanced, drawn = np.arange(400) % 5, rng.choice(5, 400, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    even = np.repeat([0, 1], [201, 199])
    for labels in (balanced, np.sort(balanced)):
        design = Design.part(subset(400, n, labels), labels)
        assert design.groups is not None and design.chance == 0
    for labels in (drawn, np.sort(drawn), even):
        places = subset(400, n, labels)
        design = Design.part(places, labels)
        assert design.chance == n / 400
        assert np.array_equal(np.unique(design.groups), np.unique(labels[places]))
    for labels in (None, np.arange(400), np.zeros(400)):
        assert Design.part(subset(400, n, labels), labels).groups is None
    everything = np.arange(400)
    assert Design.part(everything, drawn).groups is None
    assert Design.part(everything, balanced).chance == 0


@pytest.mark.parametrize(
    "sizes, least, expected",
    [
        ([5, 5, 5], 2, "stratified by 3 classes"),
        ([2, 2, 2], 2, "stratified by 3 classes"),
        ([5, 1, 4, 1], 2, "stratified by 2 classes and the rest as one"),
        ([5, 1, 4, 7], 2, "stratified by 2 classes and the rest as one"),
        ([9, 3, 9, 2], 4, "stratified by 2 classes and the rest as one"),
        ([5, 1], 2, None),
        ([2, 2, 2], 3, None),
        ([1, 1, 1, 1], 2, None),
    ],
)
def test_groups_too_small_to_have_pairs_are_one_together(sizes, least, expected):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    strata = Design(len(groups), groups).strata(least)
    assert (strata and str(strata)) == expected
    if strata is None:
        return
    found = np.bincount(strata.groups)
    assert found.min() >= least and found.sum() == sum(sizes)
    for here in np.unique(groups):
        assert len(set(strata.groups[groups == here])) == 1, "no group is torn"


@pytest.mark.slow
def test_means_of_all_designs_have_the_error_that_they_have():
    """Classes far apart: whether their shares are chance or decision is nearly the whole error."""
    rng = np.random.default_rng(0)
    n, classes, repeats = 400, 8, 1500
    means = rng.normal(0, 3, classes)
    shares = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    designs = {}
    for _ in range(repeats):
        labels = np.arange(n) % classes
        drawn = rng.integers(classes, size=n)
        samples = {
            name: (each, Design.of(n, each))
            for name, each in (
                ("balanced", labels), ("sorted", np.sort(labels)),
                ("drawn", drawn), ("drawn, sorted", np.sort(drawn)),
            )
        }  # fmt: skip
        for times in (1.25, 2, 20):
            whole = rng.choice(classes, int(times * n), p=shares)
            places = subset(len(whole), n, whole)
            samples[f"1 of {times}"] = whole[places], Design.part(places, whole)
        for name, (each, design) in samples.items():
            x = means[each] + rng.normal(size=n)
            blocks = design.blocks()
            left = (x.sum() - np.bincount(blocks, weights=x)) / (n - np.bincount(blocks))
            error = np.sqrt(19 / 20 * np.sum((left - left.mean()) ** 2))
            designs.setdefault(name, []).append((x.mean(), error))
    for name, found in designs.items():
        values, errors = np.array(found).T
        assert 0.9 < np.sqrt(np.mean(errors**2)) / values.std() < 1.12, name
