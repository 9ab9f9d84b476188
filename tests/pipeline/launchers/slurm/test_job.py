"""What a job does with its stages, alone and with others, without Slurm."""

import os
import signal

import pytest
import torch

from piflow_bench import interruption
from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers.slurm import job
from piflow_bench.pipeline.launchers.slurm.records import FOLDER, outcome_of, write_outcome
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.store.store import Store
from piflow_bench.training import distributed
from tests.pipeline.tasks import stage_of


class Ended(BaseException):
    """The process is over."""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    (tmp_path / FOLDER).mkdir()
    return store


@pytest.fixture
def alone(monkeypatch):
    """The one process of its job, and what it left in the end."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    left = []
    monkeypatch.setattr(distributed, "leave_group", lambda: left.append(1))
    threads = torch.get_num_threads()
    yield left
    torch.set_num_threads(threads)
    interruption.forget()


@pytest.fixture
def others(monkeypatch):
    """The other processes of a training, that hear what this one says, or say ``word``."""

    class Others:
        said, word, joined = [], "go", False

        def __init__(self, rank, world):
            Others.said = []
            self.joined = False

        def tell(self, word):
            self.said.append(word)

        def hear(self):
            return self.word

        def join(self, runtime):
            self.joined = True
            self.said.append("joined")

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(job, "_Others", Others)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(job, "CAUSE_SECONDS", 0.0)
    return Others


def does(monkeypatch, kind, run):
    monkeypatch.setattr(KINDS[kind], "run", run)


def fails(*given):
    raise ValueError("why\nand more")


def task(store, *stages):
    return job.Task(str(store.root), stages, Runtime(), 1)


def test_stages_are_made_one_after_the_other(store, alone, monkeypatch):
    does(monkeypatch, "draw", lambda *given: None)
    stages = stage_of("draw", 1), stage_of("draw", 2)
    assert task(store, *stages)() == "over"
    assert all(store.has(stage) for stage in stages) and alone == [1]


def test_a_failure_is_written_down_and_the_next_stage_is_made(store, alone, monkeypatch):
    does(monkeypatch, "draw", fails)
    does(monkeypatch, "metrics", lambda *given: None)
    bad, good = stage_of("draw"), stage_of("metrics")
    assert task(store, bad, good)() == "over" and store.has(good)
    found = outcome_of(store, bad)
    assert (found["status"], found["reason"]) == ("failed", "ValueError: why")
    assert found["traceback"].startswith("Traceback")


def test_what_lacks_its_inputs_waits_for_them(store, alone, monkeypatch):
    does(monkeypatch, "features", fails)
    below = stage_of("draw", label="samples of mine")
    stage = stage_of("features", inputs={"samples": (below,)})
    task(store, stage)()
    found = outcome_of(store, stage)
    assert (found["status"], found["reason"]) == ("waiting", "needs samples of mine")


@pytest.mark.parametrize("asked_by, queued", [(signal.SIGUSR2, True), (signal.SIGTERM, False)])
def test_a_time_limit_puts_it_back_into_the_queue_and_an_end_does_not(
    store, alone, monkeypatch, asked_by, queued
):
    requeued, before = [], signal.getsignal(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda number, frame: requeued.append(number))

    def stops(*given):
        signal.getsignal(asked_by)(asked_by, None)
        assert interruption.asked()
        raise interruption.Stopped

    does(monkeypatch, "features", stops)
    try:
        assert task(store, stage_of("features"))() == "stopped"
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert bool(requeued) == queued


def test_signals_are_those_of_slurm_where_a_stage_could_not_go_on():
    before = signal.getsignal(signal.SIGTERM)
    with job._stopping(stage_of("metrics")):
        assert signal.getsignal(signal.SIGTERM) == before
    with job._stopping(stage_of("features")) as asked_by:
        assert signal.getsignal(signal.SIGTERM) != before and asked_by() == 0
    assert signal.getsignal(signal.SIGTERM) == before


# ------------------------------------------------------------------ with others


def test_the_others_join_where_there_is_work(store, others, monkeypatch):
    does(monkeypatch, "distill", lambda *given: None)
    stage = stage_of("distill", method="kd")
    job._lead(store, stage, Runtime(), 2)
    assert store.has(stage) and others.said == ["go", "joined"]
    job._lead(store, stage, Runtime(), 2)
    assert others.said == ["over"], "it is made"
    lacking = stage_of("distill", 2, {"teacher": (stage_of("teacher"),)}, method="kd")
    job._lead(store, lacking, Runtime(), 2)
    assert others.said == ["over"] and outcome_of(store, lacking)["status"] == "waiting"


def test_a_failure_beside_others_ends_them_and_the_first_word_is_the_cause(
    store, others, monkeypatch
):
    does(monkeypatch, "distill", fails)
    stage = stage_of("distill", method="kd")
    with pytest.raises(Ended):
        job._lead(store, stage, Runtime(), 2)
    assert outcome_of(store, stage)["reason"] == "ValueError: why"
    write_outcome(store, stage, "failed", "of another")
    with pytest.raises(Ended):
        job._lead(store, stage, Runtime(), 2)
    assert outcome_of(store, stage)["reason"] == "of another"


def test_who_follows_trains_only_if_told(store, others, monkeypatch):
    given = []
    does(monkeypatch, "distill", lambda *a: given.append(a))
    teacher = stage_of("teacher")
    stage = stage_of("distill", inputs={"teacher": (teacher,)}, method="kd")
    others.word = "over"
    job._follow(store, stage, Runtime(), 1, 2)
    assert given == []
    others.word = "go"
    job._follow(store, stage, Runtime(), 1, 2)
    ((_, inputs, folder, *_),) = given
    assert inputs == {"teacher": [store.path(teacher)]} and folder == store.work(stage)


def test_who_follows_and_fails_says_which_process_it_was(store, others, monkeypatch):
    does(monkeypatch, "distill", fails)
    stage = stage_of("distill", method="kd")
    with pytest.raises(Ended):
        job._follow(store, stage, Runtime(), 3, 4)
    assert outcome_of(store, stage)["reason"] == "ValueError: why (process 3)"
