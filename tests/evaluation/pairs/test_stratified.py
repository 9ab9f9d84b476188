"""Pair statistics by design: against sums by hand, and where the truth is 0."""

import numpy as np
import pytest

from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.features import evaluate_features, evaluate_with_replicates
from piflow_bench.evaluation.inputs import Extras
from piflow_bench.evaluation.metrics import distances
from piflow_bench.evaluation.pairs.stratified import draw_subset
from piflow_bench.evaluation.subsets import subset
from piflow_bench.evaluation.uncertainty import jackknife_error

CLASSES = 4
CENTRES = np.random.default_rng(1).normal(0, 2, (CLASSES, 3))


def sample(labels, seed, columns=3):
    rng = np.random.default_rng(seed)
    x = np.zeros((len(labels), columns))
    x[:, :3] = CENTRES[labels]
    return x + rng.normal(size=x.shape)


def cubic(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def distance(x, y):
    return -np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


KERNELS = {"kid_exact": cubic, "energy_distance": distance}


def mean_of_pairs(kernel, x, labels, chance=0.0):
    """E k(x, x') of two draws of the mixture with the sample's shares, pair by pair.

    With ``chance`` f of two of N = n / f draws that have these shares.
    """
    k, n, total = kernel(x, x), len(x), 0.0
    for a in np.unique(labels):
        for b in np.unique(labels):
            here, there = labels == a, labels == b
            part = k[np.ix_(here, there)]
            pairs = part.sum() - (np.trace(part) if a == b else 0)
            count = here.sum() * there.sum() - (here.sum() if a == b else 0)
            weight = here.sum() * (there.sum() - (chance if a == b else 0)) / (n * (n - chance))
            total += weight * pairs / count
    return total


def by_hand(kernel, x, y, labels, others, chance=0.0):
    return (
        mean_of_pairs(kernel, x, labels, chance)
        + mean_of_pairs(kernel, y, others)
        - 2 * kernel(x, y).mean()
    )


def scored(name, x, y, labels, others, chance=0.0, **settings):
    extras = Extras(
        design=Design(len(x), labels, chance),
        reference_design=Design(len(y), others),
    )
    return evaluate_with_replicates(x, y, [name], extras=extras, **settings)[0]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("columns", [3, 150], ids=["moments", "strips"])
def test_values_and_replicates_by_hand(name, columns):
    labels, others = np.arange(90) % CLASSES, np.sort(np.arange(130) % CLASSES)
    x, y = sample(labels, 2, columns), sample(others, 3, columns)
    found = scored(name, x, y, labels, others, block=17)
    assert found.value == pytest.approx(by_hand(KERNELS[name], x, y, labels, others), rel=1e-9)
    assert found.estimator == "stratified by 4 classes"
    blocks = Design(90, labels).blocks()
    assert len(found.replicates) == 20
    for b, replicate in enumerate(found.replicates):
        kept = blocks != b
        again = by_hand(KERNELS[name], x[kept], y, labels[kept], others)
        assert replicate == pytest.approx(again, rel=1e-9, abs=1e-12)


UNLIKE = np.repeat(np.arange(CLASSES), [51, 25, 12, 2])
"""Labels of 90 samples in classes of unlike sizes."""


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("times", [1, 1.5, 10])
def test_a_part_has_the_weights_that_all_draws_give(name, times):
    """Of N = n times ``times`` draws: at 1 the plain mean over pairs, far above it the decided."""
    chance = 1 / times
    labels = np.random.default_rng(0).permutation(UNLIKE)
    others = np.arange(130) % CLASSES
    x, y = sample(labels, 2), sample(others, 3)
    found = scored(name, x, y, labels, others, chance)
    expected = by_hand(KERNELS[name], x, y, labels, others, chance)
    assert found.value == pytest.approx(expected, rel=1e-9)
    if times == 1:
        plain = scored(name, x, y, None, others)
        assert found.value == pytest.approx(plain.value, rel=1e-9)
    blocks = Design(90, labels, chance).blocks()
    for b, replicate in enumerate(found.replicates):
        kept = blocks != b
        if np.bincount(labels[kept]).min() < 2:
            continue
        again = by_hand(KERNELS[name], x[kept], y, labels[kept], others, chance)
        assert replicate == pytest.approx(again, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [*KERNELS, "kid"])
@pytest.mark.parametrize(
    "sizes, chance",
    [([2] * 20, 0), ([3] * 20, 0), ([1] * 20 + [2] * 20, 0), ([30, 20, 5, 2, 1], 0.5),
     ([30, 2], 0.1), ([20, 20], 0)],
)  # fmt: skip
def test_no_value_depends_on_blocks(name, sizes, chance):
    """Whether an interval is asked, and of which blocks, is no matter of the value."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    others = np.arange(130) % CLASSES
    x, y = sample(labels % CLASSES, 2), sample(others, 3)
    settings = {"kid_subsets": 2, "kid_subset_size": 20}
    given = {"extras": Extras(design=Design(len(x), labels, chance)), "reference_labels": others}
    found = [
        evaluate_with_replicates(x, y, [name], **given, **each, **settings)[0]
        for each in (
            {}, {"intervals": False}, {"block_ids": labels}, {"block_ids": np.arange(len(x)) % 2}
        )
    ]  # fmt: skip
    for each in found[1:]:
        assert each.value == pytest.approx(found[0].value, rel=1e-12)
        assert each.estimator == found[0].estimator
    assert all(np.isfinite(each.replicates).all() for each in found)


@pytest.mark.parametrize("name", KERNELS)
def test_only_the_side_whose_design_is_known_is_stratified(name):
    labels, others = np.arange(90) % CLASSES, np.arange(130) % CLASSES
    x, y = sample(labels, 2), sample(others, 3)
    alone = np.zeros(130, int)
    found = scored(name, x, y, labels, None)
    assert found.value == pytest.approx(by_hand(KERNELS[name], x, y, labels, alone), rel=1e-9)
    assert found.estimator == "samples stratified by 4 classes, reference not stratified"
    found = scored(name, x, y, None, others)
    assert found.value == pytest.approx(
        by_hand(KERNELS[name], x, y, np.zeros(90, int), others), rel=1e-9
    )
    assert found.estimator == "samples not stratified, reference stratified by 4 classes"


def test_without_a_balanced_design_nothing_changes_by_a_bit():
    rng = np.random.default_rng(4)
    labels, others = rng.integers(CLASSES, size=90), rng.integers(CLASSES, size=130)
    x, y = sample(labels, 2), sample(others, 3)
    names = ["kid", "kid_exact", "energy_distance", "cmmd", "fd"]
    settings = {"kid_subsets": 3, "kid_subset_size": 30}
    plain = evaluate_features(x, y, names, **settings)
    known = evaluate_features(x, y, names, labels=labels, reference_labels=others, **settings)
    assert plain.equals(known)
    how = ["U-statistic", "U-statistic", "U-statistic", "U-statistic", "V-statistic", "plug-in"]
    assert list(plain["estimator"]) == how
    # A prompt for each sample: no two samples share a group, and nothing can be weighed.
    each = evaluate_features(x, y, names, labels=np.arange(90), **settings)
    assert plain.equals(each)


def test_subsets_hold_all_groups_alike_and_mean_what_all_pairs_mean():
    labels, others = np.arange(62) % CLASSES, np.arange(71) % CLASSES
    x, y = sample(labels, 2), sample(others, 3)
    given = {"labels": labels, "reference_labels": others}
    for i, j in distances.kid_draws(62, 71, 20, 22, 0, labels, others):
        for rows, groups in ((i, labels), (j, others)):
            assert len(set(rows)) == 22 and set(np.bincount(groups[rows])) == {5, 6}
    exact = evaluate_with_replicates(x, y, ["kid_exact"], **given)[0]
    found = evaluate_with_replicates(x, y, ["kid"], kid_subsets=1500, kid_subset_size=22, **given)
    error = found[1].value / np.sqrt(1500)
    assert abs(found[0].value - exact.value) < 2.5 * error
    plain = evaluate_with_replicates(x, y, ["kid_exact"])[0].value
    assert exact.value - plain > 10 * error, "the plain mean would be found out"
    assert found[0].estimator == "stratified by 4 classes"


@pytest.mark.parametrize("sizes", [[15, 15, 16, 16], [31, 30, 30], [40, 17, 4, 1], [10], [3, 3]])
def test_a_subset_is_of_the_size_asked_and_holds_shares(sizes):
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(groups)
    for size in range(2, n + 1):
        rows = draw_subset(groups, size, np.random.RandomState(size))
        assert len(set(rows)) == size
        shares = np.bincount(groups[rows], minlength=len(sizes)) - size * np.array(sizes) / n
        assert (np.abs(shares) < 1).all()


@pytest.mark.parametrize("chance", [0, 0.3])
def test_replicates_of_subsets_have_the_shares_that_are_left_of_all(chance):
    """Point by point: pairs of a subset weigh by the sizes of groups in the whole sample."""
    labels, others = np.random.default_rng(1).permutation(UNLIKE[:88]), np.arange(128) % CLASSES
    x, y = sample(labels, 2), sample(others, 3)
    design = Design(88, labels, chance)
    blocks = design.blocks()
    given = {"extras": Extras(design=design), "reference_labels": others}
    settings = {"kid_subsets": 3, "kid_subset_size": 40}
    found = evaluate_with_replicates(x, y, ["kid"], **given, **settings)[0]
    draws = distances.kid_draws(88, 128, 3, 40, 2020, labels, others)

    def weighed(i, j, kept):
        here = np.array([k for k in i if kept[k]])
        n_c, s_c = np.bincount(labels[kept]), np.bincount(labels[here])
        n, total = kept.sum(), 0.0
        for p in here:
            a = labels[p]
            for q in here:
                b = labels[q]
                same, pairs = (a == b), s_c[a] * s_c[b] - (s_c[a] if a == b else 0)
                weight = n_c[a] * (n_c[b] - chance * same) / (n * (n - chance)) / pairs
                total += weight * cubic(x[[p]], x[[q]])[0, 0] * (p != q)
        across = cubic(x[here], y[j]).mean(axis=1)
        return (
            total
            + mean_of_pairs(cubic, y[j], others[j])
            - 2 * across @ (n_c / n / s_c)[labels[here]]
        )

    for b, value in [(None, found.value), *enumerate(found.replicates)][:5]:
        expected = np.mean([weighed(i, j, blocks != (-1 if b is None else b)) for i, j in draws])
        assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("design", ["in turn", "a part of 4"])
@pytest.mark.parametrize("subsets", [1, 4])
def test_intervals_over_few_subsets_are_as_wide_as_their_error(design, subsets):
    """They were wider by what shares of groups in a subset vary without a block, up to thrice."""
    rng = np.random.default_rng(6)
    others = np.arange(200) % CLASSES
    y = sample(others, 3) + 2.5 * CENTRES[others]
    values, errors = [], []
    for seed in range(250):
        labels, drawn = taken(design, 80, rng)
        found = evaluate_with_replicates(
            sample(labels, 10 + seed) + 2 * CENTRES[labels], y, ["kid"], reference_labels=others,
            extras=Extras(design=drawn), kid_subsets=subsets, kid_subset_size=40,
        )[0]  # fmt: skip
        values.append(found.value)
        errors.append(jackknife_error(found.replicates))
    assert 0.85 < np.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.2


def test_a_subset_of_everything_is_all_pairs():
    labels, others = np.arange(60) % CLASSES, np.arange(60) % CLASSES
    x, y = sample(labels, 2), sample(others, 3)
    given = {"labels": labels, "reference_labels": others}
    exact = evaluate_with_replicates(x, y, ["kid_exact"], **given)[0]
    whole = evaluate_with_replicates(x, y, ["kid"], kid_subsets=1, kid_subset_size=60, **given)[0]
    assert whole.value == pytest.approx(exact.value, rel=1e-9)
    assert whole.replicates == pytest.approx(exact.replicates, rel=1e-9)


def test_subsets_without_room_for_all_groups_say_that_they_are_not_stratified():
    labels = np.arange(60) % 15
    x, y = sample(labels % CLASSES, 2), sample(labels % CLASSES, 3)
    settings = {"kid_subsets": 2, "kid_subset_size": 50}
    found = evaluate_features(x, y, ["kid", "kid_exact"], labels=labels, **settings)
    plain = evaluate_features(x, y, ["kid"], **settings)
    assert found["estimator"][0] == "U-statistic" and found["value"][0] == plain["value"][0]
    assert found["estimator"][2] == "samples stratified by 15 classes, reference not stratified"


def taken(design, n, rng):
    """Labels ``(n,)``, and how they come."""
    if design.startswith("a part"):
        whole = rng.choice(CLASSES, int(n * float(design.split()[-1])), p=[0.4, 0.3, 0.2, 0.1])
        places = subset(len(whole), n, whole)
        return whole[places], Design.part(places, whole)
    labels = rng.integers(CLASSES, size=n) if design == "drawn" else np.arange(n) % CLASSES
    labels = np.sort(labels) if design == "sorted" else labels
    return labels, Design.of(n, labels)


@pytest.mark.parametrize("design", ["in turn", "sorted", "drawn", "a part of 1.5", "a part of 8"])
def test_two_samples_of_one_mixture_are_at_distance_0(design):
    rng = np.random.default_rng(5)
    n, m, values = 60, 100, []
    for seed in range(200):
        (labels, mine), (others, theirs) = (taken(design, k, rng) for k in (n, m))
        x, y = (sample(k, 10 + 2 * seed + i) for i, k in enumerate((labels, others)))
        found = evaluate_with_replicates(
            x, y, ["kid", "kid_exact", "energy_distance"],
            extras=Extras(design=mine, reference_design=theirs),
            intervals=False, kid_subsets=10, kid_subset_size=32,
        )  # fmt: skip
        values.append([each.value for each in found if each.metric != "kid_std"])
    errors = np.std(values, axis=0) / np.sqrt(len(values))
    assert (np.abs(np.mean(values, axis=0)) < 2.5 * errors).all()
