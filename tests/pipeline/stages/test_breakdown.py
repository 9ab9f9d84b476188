"""Numbers by sample count and class: closed forms, and where there are none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from piflow_bench.contracts.condition import Unconditional
from piflow_bench.evaluation.moments import Moments
from piflow_bench.pipeline.stages import breakdown
from piflow_bench.pipeline.stages.breakdown import BreakDown
from tests.pipeline.stages import made

N, EACH = 120, 40
TASK = BreakDown(
    dataset={}, space={}, extractor="f", question="imitation", sample_seed=0, n=N,
    metrics=["fd", "recall"], versions={}, by_size=True, settings={}, reference_seed=3,
)  # fmt: skip
LABELS = np.arange(N) % 3
CLOUD = np.random.default_rng(0).normal(size=(EACH, 2))
SHIFTS = np.array([0.5, 1.0, 2.0])


def arranged(shift):
    """The same cloud for every class, moved along the first axis by the class's shift."""
    x = np.empty((N, 2))
    for c in range(3):
        x[c == LABELS] = CLOUD + [shift[c], 0.0]
    return x


def found(tmp_path, task=TASK, reference=None, data=None):
    inputs = {"generated": [made.folder_of(tmp_path, "x", f=arranged(SHIFTS))]}
    given = {"f": arranged(np.zeros(3))} if reference is None else reference
    inputs["reference"] = [made.folder_of(tmp_path, "y", **given)]
    task.run(inputs, tmp_path, made.runtime(data), made.silent)
    return json.loads((tmp_path / breakdown.FILE).read_text())


def by_class(rows, metric="fd"):
    return {r["group"]: r["value"] for r in rows if r["kind"] == "class" and r["metric"] == metric}


def test_a_class_that_was_moved_is_as_far_as_it_was_moved(tmp_path):
    rows = found(tmp_path)
    expected = {str(c): shift**2 for c, shift in enumerate(SHIFTS)}
    assert by_class(rows) == pytest.approx(expected, abs=1e-9)
    assert set(by_class(rows, "recall")) == {"0", "1", "2"}
    assert {r["n"] for r in rows if r["kind"] == "class"} == {EACH}


def test_sizes_grow_to_all_and_a_line_leads_to_infinity(tmp_path):
    rows = [r for r in found(tmp_path) if r["kind"] == "size"]
    sizes, values = zip(*((r["n"], r["value"]) for r in rows[:-1]), strict=True)
    assert sizes[0] == N // 4 and sizes[-1] == N and list(sizes) == sorted(sizes)
    slope, intercept = np.polyfit(1 / np.array(sizes), values, 1)
    assert rows[-1] == {"kind": "size", "group": "infinity", "metric": "fd_infinity",
                        "value": pytest.approx(intercept), "n": N}  # fmt: skip


def test_as_many_as_are_compared_are_looked_at(tmp_path):
    rows = found(tmp_path, replace(TASK, n=90))
    assert max(r["n"] for r in rows if r["kind"] == "size") == 90
    assert {r["n"] for r in rows if r["kind"] == "class"} == {30}


def test_without_the_frechet_distance_there_are_classes_alone(tmp_path):
    rows = found(tmp_path, replace(TASK, by_size=False, metrics=["recall", "is"]))
    assert {(r["kind"], r["metric"]) for r in rows} == {("class", "recall")}


def test_small_classes_and_those_beyond_the_first_are_not_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(breakdown, "IN_A_CLASS", EACH + 1)
    assert by_class(found(tmp_path)) == {}
    monkeypatch.setattr(breakdown, "IN_A_CLASS", EACH)
    monkeypatch.setattr(breakdown, "CLASSES", 2)
    (tmp_path / "again").mkdir()
    assert set(by_class(found(tmp_path / "again"))) == {"0", "1"}


def test_where_nobody_knows_classes_there_are_sizes_alone(tmp_path):
    data = made.dataset(conditions=lambda seed, indices: Unconditional(len(indices)))
    assert {r["kind"] for r in found(tmp_path, data=data)} == {"size"}


@pytest.mark.parametrize("question, classes", [("data", True), ("truth", False)])
def test_the_references_classes_are_the_questions(question, classes, tmp_path):
    test = replace(made.classes(1), labels=torch.from_numpy(LABELS))
    rows = found(tmp_path, replace(TASK, question=question), data=made.dataset(test_condition=test))
    assert bool(by_class(rows)) == classes


def test_a_reference_of_moments_alone_has_sizes_alone(tmp_path):
    moments = Moments.from_features(arranged(np.zeros(3)))
    stated = {"f/count": np.array([moments.n]), "f/mean": moments.mean,
              "f/scatter": moments.scatter}  # fmt: skip
    rows = found(tmp_path, reference=stated)
    assert {r["kind"] for r in rows} == {"size"}
    (tmp_path / "again").mkdir()
    known = [r for r in found(tmp_path / "again") if r["kind"] == "size"]
    assert [r["value"] for r in rows] == pytest.approx([r["value"] for r in known])
