"""Laws of labels: what follows one is believed, what does not is named."""

from dataclasses import replace

import pytest
import torch

from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.labels import against_law
from piflow_bench.contracts.condition import Classes
from piflow_bench.randomness import SampleRandom


def drawn(count, seed=0):
    return lambda s, indices: Classes(SampleRandom(s + seed, indices).integers(count), count)


def of(labels, count):
    """Conditions by a function of the index."""
    return lambda s, indices: Classes(torch.tensor([labels(i) for i in indices]), count)


def dataset(conditions, count, shares=None):
    """With training labels of the given shares, even ones by default."""
    weights = torch.tensor(shares or [1.0] * count)
    generator = torch.Generator().manual_seed(1)
    labels = torch.multinomial(weights, 3000, replacement=True, generator=generator)
    base = standins.images().dataset
    return replace(base, conditions=conditions, train_condition=Classes(labels, count))


@pytest.mark.parametrize("count", [2, 3, 10, 400])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_follows_a_law_is_believed(count, seed):
    assert against_law(dataset(drawn(count, seed), count), "uniform") == ""
    turn = dataset(of(lambda i: (i + seed) % count, count), count)
    assert against_law(turn, "balanced") == ""
    assert against_law(dataset(drawn(count, seed), count), "as data") == ""


@pytest.mark.parametrize("count", [2, 3, 10, 400])
def test_labels_in_turn_are_not_drawn(count):
    assert "repeat the one before" in against_law(
        dataset(of(lambda i: i % count, count), count), "uniform"
    )


@pytest.mark.parametrize("count", [2, 10, 400])
def test_drawn_labels_are_not_balanced(count):
    words = against_law(dataset(drawn(count), count), "balanced")
    assert words.startswith("label_law is 'balanced', but of the first ")


def test_blocks_are_not_balanced_in_every_first_n():
    """Five of each class after the other: even in fifteen, not in three."""
    words = against_law(dataset(of(lambda i: i // 5 % 3, 3), 3), "balanced")
    assert words.endswith("of the first 2 labels one class has 2 and another 0")


def test_rare_classes():
    shares = [0.8, 0.1, 0.1]
    uneven = of(lambda i: 0 if i % 10 < 8 else i % 10 - 7, 3)
    assert against_law(dataset(uneven, 3, shares), "as data") == ""
    assert "other shares than in the training set" in against_law(dataset(uneven, 3), "as data")
    assert "very different numbers" in against_law(dataset(uneven, 3), "uniform")
    absent = against_law(dataset(drawn(3), 3, [0.5, 0.5, 0.0]), "as data")
    assert absent == "label_law is 'as data', but the data have no class 2"
