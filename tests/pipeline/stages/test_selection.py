"""Samples that are shown: picked by their distances, with what is beside them."""

import json

import numpy as np
import pytest

from piflow_bench.contracts.condition import Unconditional
from piflow_bench.pipeline.stages import selection
from piflow_bench.pipeline.stages.selection import FACTS, PICTURES, Select
from tests.pipeline.stages import made

TASK = Select(dataset={}, space={}, extractor="f", question="imitation", sample_seed=0)
LEVELS = np.array([0.1, 0.9, -0.3, 0.5, 0.0, -0.8])
"""What every pixel of a sample is, and its feature."""


def images(levels):
    return np.broadcast_to(np.asarray(levels, np.float32)[:, None, None, None],
                           (len(levels), *made.SHAPE))  # fmt: skip


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(selection, "SELECTED", 2)


@pytest.fixture
def inputs(tmp_path):
    def features(name, levels):
        return [made.folder_of(tmp_path, name, f=np.asarray(levels)[:, None])]

    return {
        "samples": [made.samples_in(tmp_path, "x", images(LEVELS))],
        "features": features("fx", LEVELS),
        "converged": [made.samples_in(tmp_path, "c", images(LEVELS + [0, 0, 0.5, 0, 0.25, 0]))],
        "reference": features("r", [0.0, 0.65]),
        "train": [made.samples_in(tmp_path, "t", images([0.45, -0.9]))],
        "train_features": features("ft", [0.45, -0.9]),
        "test_features": features("fh", [0.2, 0.3, -0.7]),
    }


def selected(tmp_path, inputs, data=None):
    TASK.run(inputs, tmp_path, made.runtime(data), made.silent)
    about = json.loads((tmp_path / FACTS).read_text())
    with np.load(tmp_path / PICTURES) as held:
        pictures = dict(held)
    return {row["rule"]: row for row in about["rows"]}, about, pictures


def grey(levels):
    return np.floor((np.asarray(levels) + 1) * 127.5 + 0.5)


def test_best_and_worst_are_by_the_distance_to_the_reference(tmp_path, inputs):
    rows, about, pictures = selected(tmp_path, inputs)
    # Distances: 0.1, 0.25, 0.3, 0.15, 0, 0.8.
    assert rows["best"]["index"] == [4, 0] and rows["worst"]["index"][0] == 5
    assert rows["worst"]["score"][0] == pytest.approx(0.8)
    assert rows["best"]["label"] == [4 % 3, 0]
    assert np.array_equal(pictures["best"][:, 0, 0, 0], grey([0.0, 0.1]))
    assert about["looked_at"] == 6 and "of 2 reference samples" in rows["best"]["text"]


def test_the_most_unlike_are_beside_the_teachers(tmp_path, inputs):
    rows, _, pictures = selected(tmp_path, inputs)
    assert rows["teacher"]["index"] == [2, 4]
    assert rows["teacher"]["score"] == pytest.approx([0.25, 0.0625])
    assert np.array_equal(pictures["teacher-beside"][:, 0, 0, 0], grey([0.2, 0.25]))


def test_the_converged_teacher_is_not_laid_beside_itself(tmp_path, inputs):
    rows, *_ = selected(tmp_path, inputs | {"converged": inputs["samples"]})
    assert set(rows) == {"best", "worst", "training"}


def test_what_comes_near_to_training_images_is_beside_them(tmp_path, inputs):
    rows, about, pictures = selected(tmp_path, inputs)
    # Distances: 0.35, 0.45, 0.6, 0.05, 0.45, 0.1; those of held-out images: 0.25, 0.15, 0.2.
    assert rows["training"]["index"] == [3, 5]
    assert rows["training"]["score"] == pytest.approx([0.05, 0.1])
    assert np.array_equal(pictures["training-beside"][:, 0, 0, 0], grey([0.45, -0.9]))
    assert about["near_training"] == pytest.approx(2 / 6) and about["held_out"] == 3


def test_less_is_said_where_less_is_known(tmp_path, inputs):
    for name in ("train", "train_features", "test_features"):
        del inputs[name]
    inputs["reference"] = [made.folder_of(tmp_path, "moments", count=np.array([3]))]
    data = made.dataset(conditions=lambda seed, indices: Unconditional(len(indices)))
    rows, about, _ = selected(tmp_path, inputs, data)
    assert set(rows) == {"teacher"} and "label" not in rows["teacher"]
    assert set(about) == {"rows", "looked_at"}


def test_the_first_samples_are_looked_at(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(selection, "LOOKED_AT", 4)
    rows, about, _ = selected(tmp_path, inputs)
    assert about["looked_at"] == 4 and rows["worst"]["index"] == [2, 1]
