"""n of many: a fixed draw that keeps the shares of classes."""

import numpy as np
import pytest

import piflow_bench
from piflow_bench.evaluation.references.from_images import reference_statistics
from piflow_bench.evaluation.subsets import described, subset


def test_every_class_gets_its_share_whatever_the_order():
    sizes = np.array([600, 300, 97, 3])
    labels = np.repeat(["a", "b", "c", "d"], sizes)
    mixed = np.random.default_rng(0).permutation(labels)
    for given in (labels, mixed):
        for n in (2, 10, 333, 999):
            places = subset(1000, n, given)
            assert len(set(places)) == n and (np.diff(places) > 0).all()
            got = np.array([(given[places] == name).sum() for name in "abcd"])
            assert (np.abs(got - n * sizes / 1000) < 1).all()
    assert np.array_equal(subset(1000, 1000, labels), np.arange(1000))


def test_more_classes_than_samples_are_drawn_from_all_of_them():
    labels = np.arange(1000)
    places = subset(1000, 50, labels)
    assert len(places) == 50 and places.mean() == pytest.approx(500, abs=150)
    assert np.array_equal(places, subset(1000, 50, labels)), "fixed"


def test_without_classes_it_is_spread_over_the_set():
    places = subset(1000, 200)
    assert np.histogram(places, 4, (0, 1000))[0].min() > 30
    assert described(1000, 200, None) == "200 of 1000, a fixed draw"
    assert described(200, 200, None) == ""
    assert described(1000, 200, None, 300) == "200 of the first 300 of 1000, a fixed draw"
    assert described(1000, 300, None, 300) == "the first 300 of 1000"


@pytest.fixture
def halves():
    """Pictures sorted by class: 100 dark ones, then 100 light ones; and as many of both mixed."""
    random = np.random.default_rng(0)
    rows = random.integers(0, 90, (2, 200, 8, 8, 1), dtype=np.uint8)
    labels = np.repeat([0, 1], 100)
    rows[:, labels == 1] += 160
    return rows[0], rows[1], labels


def score(samples, reference, tmp_path, **given):
    given = dict(extractor="digits", metrics="fd", intervals=False, cache=tmp_path) | given
    return piflow_bench.evaluate(samples, reference, **given)


class TestOfClassSortedSamples:
    def test_n_scores_both_classes_with_and_without_labels(self, halves, tmp_path):
        ours, theirs, labels = halves
        np.savez(tmp_path / "x.npz", ours, labels)
        first = score(ours[:100], theirs, tmp_path).value[0]
        for samples, given, words in (
            (ours, labels, "keeps the shares"),
            (ours, None, "a fixed draw"),
            (tmp_path / "x.npz", None, "keeps the shares"),
        ):
            found = score(samples, theirs, tmp_path, n=100, labels=given)
            assert found.value[0] < 0.1 * first
            assert found.taken[0].startswith("100 of 200, ") and words in found.taken[0]
            assert found.n[0] == 100
        assert score(ours, theirs, tmp_path, labels=labels).taken[0] == ""

    def test_what_is_paired_is_taken_together(self, halves, tmp_path):
        ours, theirs, labels = halves
        found = score(
            ours, theirs, tmp_path, n=60, labels=labels, teacher=ours, metrics=["teacher_mse"],
            per_class="vendi",
        )  # fmt: skip
        assert found.value[0] == 0
        assert found[found.group != "all"].n.tolist() == [30, 30]

    def test_statistics_too(self, halves, tmp_path):
        ours, _, labels = halves
        np.savez(tmp_path / "x.npz", ours, labels)
        network = dict(extractor="digits", cache=tmp_path)
        whole, part = (
            reference_statistics(tmp_path / "x.npz", n=n, **network) for n in (None, 100)
        )
        first = reference_statistics(ours[:100], **network)
        gap, far = (np.abs(each.pooled.mean - whole.pooled.mean).max() for each in (part, first))
        assert gap < 0.2 * far and part.taken.startswith("100 of 200")
