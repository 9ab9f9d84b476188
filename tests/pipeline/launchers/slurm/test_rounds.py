"""Rounds of Slurm's jobs where Slurm is slow to answer: nothing is submitted twice."""

from types import SimpleNamespace

import pytest

from piflow_bench.errors import UserError
from piflow_bench.pipeline.launchers.slurm import queue, rounds
from piflow_bench.pipeline.launchers.slurm.records import FOLDER, write_outcome, write_record
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stages.distill import Distill
from piflow_bench.pipeline.store.store import Store
from piflow_bench.training.scale import Scale
from tests.pipeline.tasks import stage_of

RUNNING = queue.Job("RUNNING", "node", "None")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    (tmp_path / FOLDER).mkdir()
    return store


def answers(monkeypatch, *given):
    """squeue's answers in turn, the last again and again; how often it was asked."""
    asked = []

    def jobs():
        asked.append(1)
        return given[min(len(asked), len(given)) - 1]

    monkeypatch.setattr(queue, "jobs", jobs)
    monkeypatch.setattr(rounds.time, "sleep", lambda seconds: None)
    return asked


def test_a_queue_that_is_silent_for_a_moment_is_asked_again(store, monkeypatch):
    stages = [stage_of("draw", n) for n in range(3)]
    for n, stage in enumerate(stages[:2]):
        write_record(store, stage, f"{n}_0", store.root / "log")
    write_outcome(store, stages[1], "failed", "why")
    asked = answers(monkeypatch, None, None, {"0_0": RUNNING, "1_0": RUNNING})
    assert rounds._attached(stages, store, 5.0) == {stages[0].key: "0_0"}
    assert len(asked) == 3


def test_without_jobs_that_may_be_alive_it_is_not_asked(store, monkeypatch):
    stage = stage_of("draw", 1)
    asked = answers(monkeypatch, None)
    assert rounds._attached([stage], store, 5.0) == {}
    write_record(store, stage, "1", store.root / "log")
    write_outcome(store, stage, "failed", "why")
    assert rounds._attached([stage], store, 5.0) == {}
    assert not asked


def test_a_queue_that_stays_silent_ends_the_run_in_one_line(store, monkeypatch):
    stage = stage_of("draw", 1)
    write_record(store, stage, "1", store.root / "log")
    asked = answers(monkeypatch, None)
    with pytest.raises(UserError, match="squeue does not answer") as error:
        rounds._attached([stage], store, 5.0)
    assert len(asked) == rounds.ASKED and "\n" not in str(error.value)


def test_a_job_that_is_gone_is_not_waited_for(store, monkeypatch):
    stage = stage_of("draw", 1)
    write_record(store, stage, "1", store.root / "log")
    answers(monkeypatch, {})
    assert rounds._attached([stage], store, 5.0) == {}


@pytest.mark.parametrize("method, nodes, words", [
    ("imm", 2, None),
    ("imm", 8, "imm, 8 processes: training.batch=16: 2 rows of a process must be a multiple of 4"),
    ("kd", 8, None),
    ("kd", 3, "kd, 3 processes: training.batch=16: must be a multiple of 3 processes"),
])  # fmt: skip
def test_batches_divide_among_the_processes_of_all_nodes(method, nodes, words):
    task = object.__new__(Distill)
    for name, value in {"method": method, "settings": {}, "training": {"batch": 16}}.items():
        object.__setattr__(task, name, value)
    cluster = SimpleNamespace(
        processes_of=lambda stage: 1, of=lambda stage: SimpleNamespace(nodes=nodes)
    )
    given = [SimpleNamespace(task=task, label=method)], Runtime(scale=Scale()), cluster
    if words is None:
        rounds._check_division(*given)
        return
    with pytest.raises(UserError, match=words):
        rounds._check_division(*given)
