"""A teacher of one's own in a file: what it can serve, and what is said of a wrong one."""

import re

import pytest

from tests.pipeline.harness import call, forget, places

DIGITS = (
    "profile=smoke", "launcher=debug", "nfes=[1]", "budget.checkpoints=[1.0]",
    "variants.kd.settings.pair_steps=2", "protocol.questions=[imitation]",
)  # fmt: skip
OWN = '''
import torch
from torch import nn

from piflow_bench.api import Classes, NoSettings, Teacher, TeacherPlugin


class Plain(nn.Module):
    """Three layers, which take a call and no more."""

    def __init__(self, classes):
        super().__init__()
        self.label = nn.Embedding(classes + 1, 16)
        self.inner, self.outer = nn.Linear(64 + 1 + 16, 32), nn.Linear(32, 64)

    def forward(self, x, t, condition):
        given = torch.cat([x.flatten(1), t[:, None], self.label(condition.labels)], 1)
        return self.outer(torch.tanh(self.inner(given))).view_as(x)


class Own(TeacherPlugin):
    """Small and random."""

    Config = NoSettings

    def fresh_network(self, dataset):
        return Plain(dataset.train_condition.count)

    def load(self, dataset, made=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.fresh_network(dataset)
        return Teacher(network, network)
'''
WRONG = '''
from torch import nn

from piflow_bench import flow
from piflow_bench.api import Classes, NoSettings, Teacher, TeacherPlugin
from piflow_bench.data.digits import teacher_network
from piflow_bench.files.weights import read_weights
from piflow_bench.teachers.digits import FILE


class Wrapped(nn.Module):
    """The digits' network, misread."""

    def __init__(self):
        super().__init__()
        self.network = teacher_network()

    def forward(self, x, t, condition):
        u = self.network
        return {expression}


class Wrong(TeacherPlugin):
    """A good teacher whose numbers are misread."""

    Config = NoSettings

    def fresh_network(self, dataset):
        return Wrapped()

    def load(self, dataset, made=None):
        network = Wrapped()
        network.network.load_state_dict(read_weights(FILE).state)
        return Teacher(network, network)
'''
SCALED = '''
from dataclasses import replace

from piflow_bench.api import DatasetPlugin, Space
from piflow_bench.data.digits import Digits


class Scaled(Digits, DatasetPlugin):
    """Digits in other units."""

    def load(self, space, place):
        data = super().load(space, place)
        return replace(
            data,
            train={factor} * {shift},
            space=replace(data.space, bounded={bounded}),
            digest="{factor} {bounded}",
        )
'''


@pytest.fixture(autouse=True)
def fresh():
    forget()
    yield
    forget()


def own(tmp_path, *settings):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return call(
        "run", *DIGITS, f"plugins={file}", "teacher=own", *places(tmp_path), *settings,
        cwd=tmp_path,
    )  # fmt: skip


def test_a_call_is_all_that_some_methods_need(tmp_path):
    result = own(tmp_path, "only=[kd,teacher-euler,dmd2]", "variants.dmd2.settings.gan=false")
    assert result.returncode == 0, result.stdout + result.stderr
    import pandas as pd

    table = pd.read_parquet(tmp_path / "runs" / "digits-smoke" / "results.parquet")
    assert (table.status == "ok").all()
    assert set(table[table.role == "student"].variant) == {"kd", "dmd2"}
    assert set(table[table.role == "teacher"].variant) == {"teacher-euler"}


LACKING = {
    "piflow-gm8": "needs heads of the teacher's network",
    "meanflow": "needs duration of the teacher's network",
    "dmd2": "needs features of the teacher's network",
}


@pytest.mark.parametrize("name", LACKING)
def test_what_others_need_is_named_before_anything_is_made(name, tmp_path):
    result = own(tmp_path, f"only=[{name},kd,teacher-euler]")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    words = f"error: variants.{name}: {LACKING[name]}, which Plain of teacher=own has not"
    assert result.stderr.startswith(words), result.stderr
    assert "only=[kd,teacher-euler] leaves such variants out" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.py"]


def test_what_the_first_lacks_is_said_and_who_is_left(tmp_path):
    result = own(tmp_path, "only=[piflow-gm8,meanflow,dmd2,kd]")
    assert result.returncode == 2
    assert "variants.piflow-gm8: needs heads of" in result.stderr
    assert "only=[kd] leaves" in result.stderr


def test_what_is_left_over_may_be_nothing(tmp_path):
    """Advice that could not be followed is not given."""
    result = own(tmp_path, "only=[piflow-gm8]")
    assert result.returncode == 2 and "only=[]" not in result.stderr


# ------------------------------------------------------------------ wrong ones


def shifted(offset):
    return f"u(x, t, Classes((condition.labels + {offset}) % 10, 10))"


MISREAD = {
    "reversed time": ("-u(x, 1 - t, condition)", r"its time runs from noise to data.*reverse"),
    "noise for velocity": (
        "flow.noise_from_velocity(x, u(x, t, condition), t)",
        r"predicts noise, not velocity: teacher\.predicts=eps",
    ),
    "wrong units": ("u(x, t / 1000, condition)", r"time runs over 0\.\.1000: teacher\.units=1000"),
    "label offset": (shifted(1), r"its labels are these -1: the dataset's begin elsewhere"),
}


def wrong(tmp_path, expression, *settings):
    (tmp_path / "wrong.py").write_text(WRONG.format(expression=expression))
    return call(
        "run", *DIGITS, f"plugins={tmp_path / 'wrong.py'}", "teacher=wrong",
        "only=[kd,teacher-euler]", *places(tmp_path), *settings, cwd=tmp_path,
    )  # fmt: skip


def made(tmp_path):
    """Kinds of the stages in the store."""
    return {p.name.split("-")[0] for p in (tmp_path / "store" / "artifacts").glob("*")}


@pytest.mark.parametrize("name", MISREAD)
def test_a_teacher_that_is_misread_ends_the_run_before_any_training(name, tmp_path):
    expression, words = MISREAD[name]
    result = wrong(tmp_path, expression)
    assert result.returncode == 2, result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: teacher=wrong: ") and re.search(words, line), line
    assert line.endswith("(check_teacher=false goes on all the same)")
    assert made(tmp_path) == set()


def scaled(tmp_path, factor, shift="data.train", bounded=True):
    file = tmp_path / "scaled.py"
    file.write_text(SCALED.format(factor=factor, shift=shift, bounded=bounded))
    return call(
        "run", *DIGITS, f"plugins={file}", "dataset=scaled", "only=[kd,teacher-euler]",
        *places(tmp_path), cwd=tmp_path,
    )  # fmt: skip


def test_data_of_another_scale_end_the_run(tmp_path):
    result = scaled(tmp_path, 0.18215, bounded=False)
    assert result.returncode == 2 and made(tmp_path) == set()
    assert "error: teacher=digits: its data are 5.49 times these: another scale" in result.stderr


def test_images_of_0_to_255_are_refused_by_the_plan(tmp_path):
    result = scaled(tmp_path, 127.5, "(data.train + 1)")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert re.match(
        r"error: dataset scaled: .*train has images in \[0, 255\]; they lie in \[-1, 1\]",
        result.stderr,
    ), result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scaled.py"]


def test_who_knows_better_goes_on(tmp_path):
    result = wrong(tmp_path, MISREAD["label offset"][0], "check_teacher=false")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {"distill", "converged"} <= made(tmp_path)
    assert "teacher_check" not in made(tmp_path)


def test_the_right_one_is_checked_once(tmp_path):
    result = wrong(tmp_path, "u(x, t, condition)")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {"distill", "teacher_check"} <= made(tmp_path)
