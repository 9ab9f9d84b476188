"""Controls: which there are, and what they are measured against."""

from pathlib import Path

import pytest

from piflow_bench.contracts.data import TensorRows, Truth
from piflow_bench.pipeline.plan.controls import REPEATS, controls
from piflow_bench.pipeline.stages.metrics import COSINE
from tests.pipeline.plan import made

TRUTH = Truth(None, None)


def planned(questions, rules=None, **data):
    world = made.world({"questions": questions, **(rules or {})}, data=made.dataset(**data))
    found = controls(made.shared_of(world))
    assert {c.columns["role"] for c in found} == {"control"}
    assert all(c.distill is None for c in found)
    return [(c.columns["variant"], c) for c in found]


@pytest.mark.parametrize(
    "questions, names",
    [
        (["imitation"], ["teacher-converged"]),
        (["imitation", "data"], ["teacher-converged", "memoriser", "real-vs-real"]),
        (["imitation", "truth"], ["teacher-converged", "real-vs-real"]),
    ],
)
def test_questions_bring_their_controls(questions, names):
    assert [name for name, _ in planned(questions, truth=TRUTH)] == names


def test_the_converged_teacher_is_measured_as_students_are_but_never_beside_itself():
    rules = {"metrics": ["fd", "recall", COSINE], "agreement": "teacher_mse"}
    ((_, cell),) = planned(["imitation"], rules)
    assert [s.kind for s in cell.results] == ["metrics", "metrics"]
    assert not any("teacher" in s.inputs for s in cell.results)
    assert cell.columns["sampler"] == "unipc, 16 steps" and cell.closer
    assert [(s.task.seed, s.task.stop) for s in cell.samples] == [(0, 50)]


def test_the_memoriser_is_the_training_set_against_every_reference():
    _, (_, memoriser), (_, real) = planned(["imitation", "data"])
    assert {s.task.question for s in memoriser.results} == {"imitation", "data"}
    assert {tuple(s.task.labels.items()) for s in memoriser.results} == {
        (("from", "train"), ("n", 0))
    }
    for extractor, stage in zip(("one", "two"), real.results, strict=True):
        task = stage.task
        assert (task.extractor, task.reference, task.n, task.repeats) == (extractor, 8, 40, REPEATS)
        assert task.labels == [{"from": "train", "n": 0}, {"from": "test"}]
        drawn = [s.inputs["samples"][0].task.split for s in stage.inputs["real"]]
        assert drawn == ["train", "test"]


def test_a_file_is_not_divided_anew_and_the_memoriser_is_as_large_as_what_is_compared():
    rows = TensorRows(made.dataset().train)
    found = dict(planned(["data"], {"primary_question": "data"}, reference=Path("x"), rows=rows))
    assert set(found) == {"teacher-converged", "memoriser"}
    labels = {s.task.labels["n"] for s in found["memoriser"].results}
    assert labels == {40}


def test_exact_samples_are_others_than_the_references():
    _, (_, cell) = planned(["imitation", "truth"], truth=TRUTH)
    for stage in cell.results:
        (mine,), (reference,) = (stage.inputs[name] for name in ("generated", "reference"))
        drawn, held = (s.inputs["samples"][0].task for s in (mine, reference))
        assert (drawn.split, drawn.seed, drawn.n) == ("exact", 8, 50)
        assert (held.split, held.seed, held.n) == ("exact", 7, 60)
        assert stage.task.question == "truth" and stage.task.labels is None
