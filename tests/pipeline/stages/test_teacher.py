"""Teachers: made or trained by their plugin's word, and looked at before they are used."""

import json
from types import SimpleNamespace

import pytest
import torch

from piflow_bench.contracts.condition import Unconditional
from piflow_bench.contracts.teacher import Guidance, Teacher, TeacherTraining
from piflow_bench.pipeline.stages import teacher as stage
from piflow_bench.pipeline.stages.teacher import (
    CheckTeacher,
    MakeTeacher,
    TrainTeacher,
    Unfit,
    note_of_check,
)
from piflow_bench.training import loop
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings
from tests.pipeline.stages import made

TRAIN = TrainTeacher(**made.WORLD, training={"threads": 2}, budget={}, train_seed=5)


def test_weights_are_made_by_the_plugin_in_the_stages_folder(tmp_path):
    given = []
    plugin = SimpleNamespace(make=lambda *a: given.append(a))
    runtime = made.runtime(teacher_plugin=lambda: plugin)
    MakeTeacher(**made.WORLD).run({}, tmp_path, runtime, made.silent)
    assert given == [(runtime.dataset(), tmp_path, made.silent)]


# ------------------------------------------------------------------ training


def trainable(**others):
    training = TeacherTraining("method", TrainingSettings(batch=4), Budget(amount=9.0), 5)
    plugin = SimpleNamespace(
        training=lambda data: training,
        fresh_network=lambda data: made.Scaled(),
        guidance=Guidance(),
    )
    return made.runtime(teacher_plugin=lambda: plugin, **others)


def test_it_is_trained_from_fresh_weights_as_the_plugin_says(tmp_path, monkeypatch):
    calls = []

    def train(*given, **named):
        torch.set_num_threads(2)
        calls.append((given, named))

    monkeypatch.setattr(loop, "train", train)
    threads = torch.get_num_threads()
    TRAIN.run({}, tmp_path, trainable(), made.silent)
    assert torch.get_num_threads() == threads, "the stages that follow have their own"
    ((method, teacher, data, spec, settings, budget, seed, folder, _), named) = calls[0]
    assert (method, settings.batch, budget.amount, seed) == ("method", 4, 9.0, 5)
    assert (spec.batch, spec.seed, folder) == (4, 5, tmp_path)
    assert teacher.field is teacher.network
    assert teacher.network.w.item() == spec.fresh_network().w.item(), "of the training's seed"
    assert len(data.rows) == 12 and named["scale"] == Scale()


def test_threads_are_given_back_where_it_fails(tmp_path, monkeypatch):
    def train(*given, **named):
        torch.set_num_threads(2)
        raise RuntimeError("odd")

    monkeypatch.setattr(loop, "train", train)
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="odd"):
        TRAIN.run({}, tmp_path, trainable(), made.silent)
    assert torch.get_num_threads() == threads


def test_several_processes_are_started_with_the_trainings_threads(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(stage, "in_processes", lambda *given: called.append(given))
    runtime = trainable(scale=Scale(processes=2))
    TRAIN.run({}, tmp_path, runtime, made.silent)
    assert called == [(TRAIN, {}, tmp_path, runtime, 2)]


# ------------------------------------------------------------------ the check


MEAN, STD = 0.3, 0.2


def gaussian(x, t, condition):
    """The exact velocity of data N(MEAN, STD^2)."""
    t = t[:, None, None, None]
    variance = (1 - t) ** 2 * STD**2 + t**2
    x0 = MEAN + (1 - t) * STD**2 / variance * (x - (1 - t) * MEAN)
    return (x - (1 - t) * x0) / t - x0


def looked_at(field, folder):
    generator = torch.Generator().manual_seed(0)
    data = made.dataset(
        train=MEAN + STD * torch.randn(200, *made.SHAPE, generator=generator),
        train_condition=Unconditional(200),
        conditions=lambda seed, indices: Unconditional(len(indices)),
    )
    teacher = Teacher(field, made.Scaled(0.5))
    CheckTeacher(**made.WORLD).run({}, folder, made.runtime(data, teacher), made.silent)


def test_a_teacher_of_the_data_passes_and_its_losses_are_kept(tmp_path):
    looked_at(gaussian, tmp_path)
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["problem"] == "" and len(found["loss"]) == len(found["times"])
    assert found["loss"] == pytest.approx(found["known"], rel=0.3)
    assert note_of_check(tmp_path) == ""


@pytest.mark.parametrize(
    "field, words",
    [
        (lambda x, t, c: -gaussian(x, t, c), "teacher.reverse"),
        (lambda x, t, c: gaussian(x, t, c)[:1], r"the teacher gives \(1, 1, 2, 2\) for samples of"),
        (lambda x, t, c: x * float("nan"), "the teacher gives values that are not finite"),
    ],
)
def test_another_reading_or_no_velocity_at_all_is_refused(field, words, tmp_path):
    with pytest.raises(Unfit, match=words):
        looked_at(field, tmp_path)
    assert not (tmp_path / "check.json").exists()


def test_a_teacher_that_knows_little_passes_with_a_note(tmp_path):
    looked_at(lambda x, t, c: gaussian(x, t, c) + 0.5, tmp_path)
    assert "knows less of these data" in note_of_check(tmp_path)
