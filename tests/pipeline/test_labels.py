"""Classes of samples by where they come from, and the designs that follow."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.pipeline.labels import classes_of, design_of, labels_of


def classes(*labels):
    return Classes(torch.tensor(labels), 3)


DATASET = SimpleNamespace(
    conditions=lambda seed, indices: classes(*((seed + i) % 3 for i in indices)),
    test_condition=classes(2, 2, 0),
    memorised_condition=lambda n: classes(0, 1, 1, 2)[: n or 4],
)


@pytest.mark.parametrize(
    "source, n, expected",
    [
        ({"from": "conditions", "seed": 1, "law": "balanced"}, 4, [1, 2, 0, 1]),
        ({"from": "train", "n": 0}, None, [0, 1, 1, 2]),
        ({"from": "train", "n": 3}, None, [0, 1, 1]),
        ({"from": "train", "n": 3}, 2, [0, 1]),
        ({"from": "test"}, None, [2, 2, 0]),
        ({"from": "test"}, 1, [2]),
        (None, 5, None),
    ],
)
def test_classes_are_those_of_the_source(source, n, expected):
    found = labels_of(DATASET, source, n)
    assert found is None if expected is None else found.tolist() == expected


def test_conditions_without_a_single_class_have_none():
    assert classes_of(Unconditional(4)) is None
    packed = SimpleNamespace(pack=lambda: torch.zeros(4, 2))
    assert classes_of(packed) is None
    free = SimpleNamespace(conditions=lambda seed, indices: Unconditional(len(indices)))
    assert labels_of(free, {"from": "conditions", "seed": 0, "law": None}, 3) is None


def test_only_samples_drawn_in_turn_are_balanced_by_decision():
    labels = np.array([0, 1, 0, 1])
    drawn = {"from": "conditions", "seed": 0, "law": "balanced"}
    assert design_of(drawn, labels, 4).groups is not None
    for source in ({**drawn, "law": "uniform"}, {"from": "train", "n": 0}, {"from": "test"}, None):
        assert design_of(source, labels, 4).groups is None
        assert design_of(source, labels, 4).n == 4
    assert design_of(drawn, None, 4).groups is None
