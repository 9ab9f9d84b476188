"""Diversity within classes: closed forms, blocks, and where there is none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.pipeline.stages import within
from piflow_bench.pipeline.stages.within import Within
from tests.pipeline.stages import made

N = 120
TASK = Within(dataset={}, extractor="f", sample_seed=0, n=N, versions={})
LABELS = np.arange(N) % 3


def fan(spread):
    """Unit vectors in turn at angles ±spread of its class: distances 1 - cos(2 spread), or 0."""
    sign = np.where(np.arange(N) // 3 % 2, 1, -1)
    angle = sign * np.asarray(spread)[LABELS]
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def found(tmp_path, x, task=TASK, data=None):
    tmp_path.mkdir(exist_ok=True)
    inputs = {"generated": [made.folder_of(tmp_path, "x", f=x)]}
    task.run(inputs, tmp_path, made.runtime(data), made.silent)
    return json.loads((tmp_path / within.FILE).read_text())


def test_a_class_is_as_diverse_as_it_is_wide(tmp_path):
    spreads = [0.1, 0.3, 0.0]
    rows = found(tmp_path, fan(spreads))
    assert [(r["kind"], r["group"], r["n"]) for r in rows] == [("within", c, 40) for c in "012"]
    for row, spread in zip(rows, spreads, strict=True):
        expected = (1 - np.cos(2 * spread)) * 20 * 20 / (40 * 39 / 2)
        assert row["value"] == pytest.approx(expected, abs=1e-12)
        assert len(row["replicates"]) == 20
        # Every block has one sample of both signs: so all that is left is alike.
        assert np.ptp(row["replicates"]) < 1e-12


def test_a_block_has_the_samples_of_one_place_in_every_class(tmp_path):
    x = fan([0.2, 0.2, 0.2])
    odd = (LABELS == 1) & (np.arange(N) // 3 == 7)
    x[odd] = [0.0, 1.0]
    left = np.array(found(tmp_path, x)[1]["replicates"])
    assert left.argmin() == 7 and np.ptp(np.delete(left, 7)) < 1e-2 < left.max() - left.min()


def test_small_groups_have_fewer_blocks_and_tiny_ones_are_left_out(tmp_path, monkeypatch):
    labels = torch.tensor([0] * 100 + [1] * 6 + [2] * 2 + [3] * 12)
    data = made.dataset(conditions=lambda seed, i: Classes(labels[: len(i)], 4))
    rows = found(tmp_path, np.random.default_rng(0).normal(size=(N, 3)), data=data)
    assert [(r["group"], len(r["replicates"])) for r in rows] == [("0", 6), ("1", 6), ("3", 6)]
    monkeypatch.setattr(within, "GROUPS", 1)
    rows = found(tmp_path / "one", np.random.default_rng(0).normal(size=(N, 3)), data=data)
    assert [(r["group"], len(r["replicates"])) for r in rows] == [("0", 20)]


def test_as_many_as_are_compared_are_looked_at(tmp_path):
    assert {r["n"] for r in found(tmp_path, fan([0.1] * 3), replace(TASK, n=90))} == {30}


def test_where_there_are_no_classes_or_no_directions_there_is_nothing(tmp_path):
    data = made.dataset(conditions=lambda seed, indices: Unconditional(len(indices)))
    assert found(tmp_path, fan([0.1] * 3), data=data) == []
    x = fan([0.1] * 3)
    x[4] = 0.0
    assert [r["group"] for r in found(tmp_path / "zero", x)] == ["0", "2"]
