"""Which stages make samples and features: pieces, splits, the teacher, and what is looked at."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from piflow_bench.contracts.data import TensorRows
from piflow_bench.contracts.teacher import TeacherTraining
from piflow_bench.pipeline.plan import samples
from piflow_bench.training.settings import Budget, TrainingSettings
from tests.pipeline.plan import made

TRAINING = TeacherTraining(SimpleNamespace(), TrainingSettings(batch=4), Budget(amount=9.0), 5)


@pytest.mark.parametrize(
    "n, edges", [(50, [(0, 20), (20, 40), (40, 50)]), (40, [(0, 20), (20, 40)]), (7, [(0, 7)])]
)
def test_shards_cover_all_once_and_are_named_where_there_are_several(n, edges):
    found = samples.shards(made.world(shard=20), n)
    assert [(low, high) for low, high, _ in found] == edges
    words = [text for *_, text in found]
    assert words == ([f" [{a}:{b}]" for a, b in edges] if len(edges) > 1 else [""])


def test_converged_samples_are_solved_as_the_experiment_says():
    world = made.world({"sampling_precision": "bf16"}, shard=30)
    world.config.converged.steps, world.config.converged.shift = 3, 0.5
    stages = samples.converged(world, samples.teachers(world), 40, 11, "words")
    tasks = [s.task for s in stages]
    assert [(t.start, t.stop) for t in tasks] == [(0, 30), (30, 40)]
    assert {(t.solver, t.steps, t.shift, t.seed, t.precision) for t in tasks} == {
        ("unipc", 3, 0.5, 11, "bf16")
    }
    assert [s.label for s in stages] == ["words [0:30]", "words [30:40]"]
    assert stages[0].weight == pytest.approx(3 * stages[1].weight)


def test_what_uses_the_teacher_comes_after_its_check_which_is_in_no_key():
    checked, unchecked = made.world(), made.world(check_teacher=False)
    one, other = (samples.converged(w, samples.teachers(w), 5, 0, "") for w in (checked, unchecked))
    assert [s.kind for s in one[0].after] == ["teacher_check"] and other[0].after == ()
    assert one[0].key == other[0].key


def test_a_teacher_is_not_checked_without_data():
    empty = made.dataset(train=torch.zeros(0, 1, 2, 2))
    assert samples.teachers(made.world(data=empty)).check is None


def test_a_teacher_with_weights_has_no_stage_and_others_are_fitted_or_trained():
    assert samples.teachers(made.world()).made == {}
    for training, kind in ((None, "teacher"), (TRAINING, "train_teacher")):
        found = samples.teachers(made.world(plugin=made.teacher(True, training)))
        (stage,) = found.made["teacher"]
        assert stage.kind == kind and found.check.inputs == {"teacher": (stage,)}


def test_guidance_trains_no_teacher_anew():
    def trained(**settings):
        world = made.world(plugin=made.teacher(True, TRAINING))
        world.identities["teacher"] = {"name": "mine", "settings": settings}
        (stage,) = samples.teachers(world).made["teacher"]
        return stage

    first = trained(dim=8, guidance=1.0, guidance_low=0.0)
    assert first.task.teacher["settings"] == {"dim": 8}
    assert (first.task.train_seed, first.task.budget["amount"]) == (5, 9.0)
    assert first.task.training["batch"] == 4
    assert trained(dim=8, guidance=3.0, guidance_low=0.2).key == first.key
    assert trained(dim=9, guidance=1.0, guidance_low=0.0).key != first.key


@pytest.mark.parametrize(
    "others, n",
    [({}, 0), ({"rows": TensorRows(torch.zeros(9, 4))}, 40), ({"reference": Path("x")}, 40)],
)
def test_training_images_are_all_in_memory_and_a_part_of_what_is_read(others, n):
    stage = samples.training_images(made.world(data=made.dataset(**others)))
    assert (stage.task.split, stage.task.n) == ("train", n)


def test_features_of_the_end_are_of_all_extractors_and_those_of_the_curve_of_the_first():
    judge = {"judge": {"rule": "classes"}}
    world = made.world(judge=judge)
    drawn = (samples.real(world, "exact", 3, 9), samples.real(world, "test"))
    final, curve = (samples.features(world, drawn, end) for end in (True, False))
    assert [s.inputs["samples"] for s in final] == [(d,) for d in drawn]
    assert set(final[0].task.extractors) == {"one", "two"} and final[0].task.judge == judge
    assert set(curve[0].task.extractors) == {"one"} and curve[0].task.judge is None
    of_data = made.world({"primary_question": "data"}, judge=judge)
    assert samples.features(of_data, drawn, False)[0].task.judge == judge


def test_the_curves_extractors_may_be_named():
    assert samples.curve_extractors(made.world({"curve_extractors": ["two"]})) == ["two"]
    assert samples.curve_extractors(made.world({"curve_extractors": []})) == []
    assert samples.curve_extractors(made.world()) == ["one"]


def test_a_reference_that_is_a_file_is_described_by_every_extractor():
    task = samples.given_reference(made.world()).task
    assert (task.kind, set(task.extractors)) == ("real_reference", {"one", "two"})
