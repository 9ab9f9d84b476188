"""Every kind of stage under its own name, and how each is treated while it is made."""

import inspect
import pkgutil
from dataclasses import fields, is_dataclass

import pytest

from piflow_bench.pipeline import stages
from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.stage import Stage, Task
from tests.pipeline.tasks import task_of


def declared():
    """Tasks with a kind of their own that the modules of ``stages`` declare."""
    for found in pkgutil.iter_modules(stages.__path__):
        module = __import__(f"{stages.__name__}.{found.name}", fromlist=["_"])
        for _, each in inspect.getmembers(module, inspect.isclass):
            if issubclass(each, Task) and "kind" in vars(each):
                yield each


def test_no_kind_is_left_out_and_none_is_there_twice():
    assert set(KINDS.values()) == set(declared())
    assert all(name == task.kind for name, task in KINDS.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_made_of_plain_fields_and_runs(kind):
    task = task_of(kind)
    assert is_dataclass(task) and task.__dataclass_params__.frozen
    assert type(task).run is not Task.run
    assert set(task.content) <= {f.name for f in fields(task)}
    assert Stage(task).name.startswith(f"{kind}-")


def test_trainings_and_long_work_go_on_from_what_they_kept():
    resumable = {kind for kind, task in KINDS.items() if task.resumable}
    assert resumable == {
        "distill", "train_teacher", "encode_text", "converged", "sample", "features",
    }  # fmt: skip


def test_what_runs_networks_asks_for_a_gpu():
    beside = {kind for kind, task in KINDS.items() if task.networks}
    assert beside == {
        "teacher_check", "encode_text", "converged", "draw", "sample", "features",
        "real_reference", "scores", "selection",
    }  # fmt: skip
