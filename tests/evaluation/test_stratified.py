"""Pair statistics of balanced designs: against sums by hand, and where the truth is 0."""

import numpy as np
import pytest

from piflow_bench.evaluation import distances
from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.features import evaluate_features, evaluate_with_replicates
from piflow_bench.evaluation.inputs import Extras

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


def mean_of_pairs(kernel, x, labels):
    """E k(x, x') of two draws of the mixture with the sample's shares, pair by pair."""
    k, n, total = kernel(x, x), len(x), 0.0
    for a in np.unique(labels):
        for b in np.unique(labels):
            here, there = labels == a, labels == b
            part = k[np.ix_(here, there)]
            pairs = part.sum() - (np.trace(part) if a == b else 0)
            count = here.sum() * there.sum() - (here.sum() if a == b else 0)
            total += here.sum() * there.sum() / n**2 * pairs / count
    return total


def by_hand(kernel, x, y, labels, others):
    return (
        mean_of_pairs(kernel, x, labels)
        + mean_of_pairs(kernel, y, others)
        - 2 * kernel(x, y).mean()
    )


def scored(name, x, y, labels, others, **settings):
    extras = Extras(
        design=Design(len(x), None if labels is None else labels),
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


@pytest.mark.parametrize("design", ["in turn", "sorted", "drawn"])
def test_two_samples_of_one_mixture_are_at_distance_0(design):
    rng = np.random.default_rng(5)
    n, m, values = 60, 100, []
    for seed in range(200):
        labels, others = (rng.integers(CLASSES, size=k) for k in (n, m))
        if design != "drawn":
            labels, others = np.arange(n) % CLASSES, np.arange(m) % CLASSES
        if design == "sorted":
            labels, others = np.sort(labels), np.sort(others)
        x, y = (sample(k, 10 + 2 * seed + i) for i, k in enumerate((labels, others)))
        found = evaluate_with_replicates(
            x, y, ["kid", "kid_exact", "energy_distance"], labels=labels, reference_labels=others,
            intervals=False, kid_subsets=10, kid_subset_size=32,
        )  # fmt: skip
        values.append([each.value for each in found if each.metric != "kid_std"])
    errors = np.std(values, axis=0) / np.sqrt(len(values))
    assert (np.abs(np.mean(values, axis=0)) < 2.5 * errors).all()
