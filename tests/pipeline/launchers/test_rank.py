"""One of a training's processes: it runs its job's task, and tells why it failed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers import rank
from piflow_bench.pipeline.launchers.torchrun import ERROR, JOB
from piflow_bench.pipeline.runtime import Given, Runtime, plain
from piflow_bench.training.scale import Scale
from tests.pipeline.tasks import task_of

RUNTIME = Runtime(given=Given({"name": "d"}), scale=Scale(processes=2))


class Ended(BaseException):
    """The process is over."""


@pytest.fixture
def group(monkeypatch):
    """What the process did with its group and its owner, in order."""
    found = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(rank, "form_group", lambda device, local: found.append((device, local)))
    monkeypatch.setattr(rank, "leave_group", lambda: found.append("left"))
    monkeypatch.setattr(rank, "_end_with", lambda owner: found.append(("ends with", owner)))

    def end(code):
        found.append(("exit", code))
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    return found


def talk_of(tmp_path, task):
    talk = tmp_path / "processes"
    talk.mkdir()
    job = {"kind": task.kind, "task": task.content, "inputs": {"teacher": ["a", "b"]},
           "runtime": plain(RUNTIME), "owner": 77}  # fmt: skip
    (talk / JOB).write_text(json.dumps(job))
    return talk


def test_it_runs_the_same_task_with_the_same_inputs_and_runtime(tmp_path, group, monkeypatch):
    task = replace(task_of("distill"), train_seed=5, train_nfe=2)
    found = []
    monkeypatch.setattr(KINDS["distill"], "run", lambda *given: found.append(given))
    rank.main(talk_of(tmp_path, task))
    ((same, inputs, folder, runtime, _),) = found
    assert same == task and folder == tmp_path and runtime == RUNTIME
    assert inputs == {"teacher": [Path("a"), Path("b")]}
    assert group == [("ends with", 77), ("cpu", 1), "left"]


def test_a_failure_is_told_and_the_process_ends_at_once(tmp_path, group, monkeypatch):
    def run(*given):
        raise ValueError("why\nand more")

    monkeypatch.setattr(KINDS["distill"], "run", run)
    talk = talk_of(tmp_path, task_of("distill"))
    with pytest.raises(Ended):
        rank.main(talk)
    first, second, *_ = (talk / ERROR).read_text().splitlines()
    assert first == "ValueError: why" and second.startswith("Traceback")
    assert group[-1] == ("exit", 1) and "left" not in group


def test_it_ends_with_who_asked_for_the_work(monkeypatch):
    asked = []

    class Now:
        def __init__(self, target, daemon):
            assert daemon
            self.start = target

    def alive(owner, signal):
        asked.append((owner, signal))
        if len(asked) == 3:
            raise ProcessLookupError

    def end(code):
        raise Ended

    monkeypatch.setattr(rank.threading, "Thread", Now)
    monkeypatch.setattr(rank.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "kill", alive)
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended):
        rank._end_with(77)
    assert asked == [(77, 0)] * 3, "it is asked for, and not killed"
