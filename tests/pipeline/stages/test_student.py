"""What several kinds are of: methods with settings, the teacher, and networks of a seed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from piflow_bench.errors import UserError
from piflow_bench.pipeline.stages.student import (
    OfStudent,
    Training,
    load_method,
    spec_of,
    teacher_of,
)
from tests.pipeline.stages import made


def test_a_method_has_its_settings_and_mistakes_are_named():
    task = OfStudent(**made.WORLD, method="kd", version=3, settings={"lr": 0.25})
    assert task.method_of(made.runtime()).config.lr == 0.25
    with pytest.raises(UserError, match=r"^variants\.kd\.lt"):
        load_method("kd", {"lt": 1}, made.runtime())


def test_the_digest_of_a_file_is_in_the_key_of_its_students_alone():
    known = {**made.WORLD, "method": "kd", "version": 3, "settings": {}}
    assert "source" not in OfStudent(**known).content
    assert OfStudent(**known, source="digest").content["source"] == "digest"


def test_the_teacher_is_of_what_its_stage_made_where_it_has_one():
    given = []
    teacher = SimpleNamespace(network=object())
    runtime = SimpleNamespace(teacher=lambda made: given.append(made) or teacher)
    teacher_of({"teacher": [Path("made"), Path("other")]}, runtime)
    teacher_of({"distill": [Path("x")]}, runtime)
    assert given == [Path("made"), None]


def test_a_fresh_network_is_of_its_seed_and_draws_nothing_from_others():
    spec = spec_of(made.runtime(), 4, 7, "cpu", 2)
    assert (spec.shape, spec.train_nfe, spec.batch, spec.seed) == (made.SHAPE, 2, 4, 7)
    other = spec_of(made.runtime(), 4, 8, "cpu")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again, another = (s.fresh_network().w.item() for s in (spec, spec, other))
    assert torch.equal(torch.rand(3), expected)
    assert first == again != another


def test_settings_and_budget_of_a_training_are_checked():
    task = Training(training={"batch": 3}, budget={"amount": 5.0}, train_seed=0)
    assert task.training_settings().batch == 3 and task.training_budget().amount == 5.0
    wrong = Training(training={"batch": 0}, budget={"checkpoints": [0.5]}, train_seed=0)
    with pytest.raises(UserError, match=r"^training\.batch=0"):
        wrong.training_settings()
    with pytest.raises((UserError, ValueError), match=r"increasing fractions that end with 1"):
        wrong.training_budget()
