"""A dataset that is not what it says is refused in the plan, one line a problem."""

import re
from dataclasses import replace

import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.conformance import stand_ins as standins
from piflow_bench.conformance.dataset import dataset_problems, teacher_problems
from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.space import Space
from piflow_bench.contracts.teacher import Guidance, Teacher
from piflow_bench.data import digits
from piflow_bench.teachers import closed_form
from piflow_bench.teachers.digits import DigitsTeacher
from tests.pipeline.harness import forget
from tests.world import world

GOOD = standins.images().dataset
FOUR = Classes(torch.arange(64) % 4 + 1, 4)


def labelled(labels):
    return lambda seed, indices: Classes(labels(torch.tensor(list(indices))), 3)


WRONG = {
    "pixels": ({"train": (GOOD.train + 1) * 127.5}, "train has images in .*255.*127.5"),
    "pixels of the test set": ({"test": (GOOD.test + 1) * 127.5}, "test has images in .*255"),
    "from 0 to 1": ({"train": (GOOD.train + 1) / 2}, r"train has images in \[0, 1\], none.*dark"),
    "integers": ({"train": GOOD.train.long()}, "train is of torch.int64"),
    "not finite": ({"train": GOOD.train / 0}, "train has 64 of 64 samples that are not finite"),
    "another shape": (
        {"space": Space((1, 8, 8))}, r"train has samples of \(1, 4, 4\), shape .*8, 8",
    ),
    "labels from 1": (
        {"train_condition": FOUR, "conditions": lambda s, i: Classes(torch.tensor([*i]) % 4, 4)},
        "train has labels 1 to 4; of 4 classes they are 0 to 3",
    ),
    "labels of samples": (
        {"conditions": labelled(lambda i: i % 3 + 1)}, "conditions has labels 1 to 3",
    ),
    "labels below 0": ({"test_condition": Classes(-torch.ones(64).long(), 3)}, "labels -1 to -1"),
    "few labels": ({"train_condition": FOUR[:10]}, "train has 64 samples and 10 conditions"),
    "other classes": (
        {"train_condition": Classes(torch.arange(64) % 3, 5)},
        "conditions are of 3 classes, the training set of 5",
    ),
    "no training set": (
        {"train": GOOD.train[:0], "train_condition": FOUR[:0]}, "train is empty",
    ),
    "no test set": ({"test": GOOD.test[:0], "test_condition": FOUR[:0]}, "test is empty"),
    "conditions by place": (
        {"conditions": labelled(lambda i: torch.arange(len(i)) % 3)}, "more than seed and index",
    ),
    "too few conditions": (
        {"conditions": lambda s, i: Classes(torch.tensor([1]), 3)}, "of 256 samples are 1 Classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case):
    change, words = WRONG[case]
    found = dataset_problems(replace(GOOD, **change))
    assert found and any(re.search(words, line) for line in found), found
    assert not any("\n" in line for line in found)


def test_what_is_right_has_no_problems():
    for dataset in (
        GOOD,
        standins.points().dataset,
        world().dataset(),
        world("mixture2d").dataset(),
    ):
        assert dataset_problems(dataset) == []
    for stand_in in (standins.images(), standins.points()):
        assert teacher_problems(stand_in.dataset, stand_in.teacher(0)) == []
    no_test = replace(GOOD, test=GOOD.test[:0], test_condition=FOUR[:0])
    assert dataset_problems(no_test, held_out=False) == []
    assert dataset_problems(None) == ["the plugin gave NoneType, not a Dataset"]


def test_latents_may_lie_anywhere():
    scaled = replace(GOOD, train=GOOD.train * 40, space=replace(GOOD.space, bounded=False))
    assert dataset_problems(scaled) == []


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (lambda x, t, c: x * float("nan"), "teacher gives values that are not finite"),
        (lambda x, t, c: x[:, :, :2], "teacher gives .* for samples of"),
        (lambda x, t, c: x @ torch.zeros(7, 7), "teacher cannot be called on"),
        (lambda x, t, c: None, "teacher"),
    ],
)
def test_a_teacher_is_called_once(field, words):
    network = standins.images().teacher(0).network
    (line,) = teacher_problems(GOOD, Teacher(field, network, Guidance(2.0)))
    assert re.search(words, line)


@pytest.mark.parametrize("case", ["pixels", "labels from 1", "no test set", "a teacher of NaN"])
def test_a_run_is_refused_before_any_work(case, tmp_path, monkeypatch, capsys):
    """Through the registry, as a plugin's dataset comes."""
    load = digits.Digits.load
    monkeypatch.setattr(
        digits.Digits, "load", lambda *given: replace(load(*given), **_on_digits(case))
    )
    if case == "a teacher of NaN":
        monkeypatch.setattr(DigitsTeacher, "load", _broken)
    monkeypatch.chdir(tmp_path)
    forget()
    try:
        assert main(["run", "profile=smoke", "only=[kd]"]) == 2
    finally:
        forget()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    if case == "a teacher of NaN":  # Found by its check, which the store would hold.
        assert error.startswith("error: teacher=digits: ")
        assert not list(tmp_path.glob("runs/store/*-*")), "nothing was made"
    else:
        assert error.startswith("error: dataset digits: ")
        assert list(tmp_path.iterdir()) == []


def _on_digits(case):
    x, y, x_test, y_test = digits.images()

    return {
        "pixels": {"train": (x + 1) * 127.5},
        "labels from 1": {"train_condition": Classes(y + 1, 10)},
        "no test set": {"test": x_test[:0], "test_condition": Classes(y_test[:0], 10)},
        "a teacher of NaN": {},
    }[case]


def _broken(plugin, dataset, made=None):
    network = plugin.fresh_network(dataset)
    return Teacher(lambda x, t, c: x * float("nan"), network, Guidance(1.5))


def test_a_closed_forms_backbone_is_not_fitted_to_look(monkeypatch, tmp_path):
    """Fitting is a stage's work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(closed_form, "fit_backbone", lambda *a, **k: pytest.fail("fitted"))
    forget()
    assert main(["status", "experiment=analytic_mixture2d", "profile=smoke"]) == 0
