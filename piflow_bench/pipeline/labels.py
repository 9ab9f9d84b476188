"""Which sample has which class, and by what law: known of a stage's samples from where they come.

A source is ``{"from": "conditions", "seed": SEED, "law": LAW}``, ``{"from": "train", "n": COUNT}``
(0: all), ``{"from": "test"}``, or None where samples have no classes or nobody knows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from piflow_bench.contracts.condition import Condition, Prompts
from piflow_bench.contracts.data import Dataset
from piflow_bench.evaluation.design import Design

Source = Mapping[str, Any] | None


def labels_of(dataset: Dataset, source: Source, n: int | None = None) -> np.ndarray | None:
    """Classes ``(n,)`` of a source's first samples; None where a sample has no single class.

    ``n`` may be None for a source of a known size.
    """
    if source is None:
        return None
    if source["from"] == "conditions":
        assert n is not None
        condition = dataset.conditions(source["seed"], range(n))
    elif source["from"] == "test":
        condition = dataset.test_condition
    else:
        condition = dataset.memorised_condition(source["n"])
    found = classes_of(condition)
    return None if found is None else found[:n]


def classes_of(condition: Condition) -> np.ndarray | None:
    """Classes ``(n,)`` of conditions; None where a sample has no single class."""
    packed = condition.pack()
    return packed.numpy() if packed.ndim == 1 else None


def captions(condition: Condition, labels: Iterable[int]) -> list[Any]:
    """What labels of conditions say to people: a class is its number, a prompt its text."""
    known = condition.known if isinstance(condition, Prompts) else None
    return [label if known is None else known[label] for label in map(int, labels)]


def design_of(source: Source, labels: np.ndarray | None, n: int) -> Design:
    """How ``n`` samples of a source were drawn, whose classes are ``labels``."""
    law = source["law"] if source and source["from"] == "conditions" else "as data"
    return Design.of(n, labels, law)
