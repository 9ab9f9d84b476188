"""What Slurm's own commands say, read without Slurm."""

import subprocess
from types import SimpleNamespace

import pytest

from piflow_bench.pipeline.launchers.slurm import queue
from piflow_bench.pipeline.launchers.slurm.queue import Job


@pytest.fixture
def said(monkeypatch):
    """The commands that were called; ``out`` and ``code`` are what they answer."""
    found = SimpleNamespace(calls=[], out="", code=0, error=None)

    def run(command, **settings):
        found.calls.append(list(command))
        if found.error:
            raise found.error
        return SimpleNamespace(returncode=found.code, stdout=found.out)

    monkeypatch.setattr(subprocess, "run", run)
    return found


def test_jobs_are_read_with_their_states_and_reasons(said):
    said.out = "7_0|RUNNING|n1|None\n7_1|PENDING||Priority\n 8|FAILED\n"
    assert queue.jobs() == {
        "7_0": Job("RUNNING", "n1", "None"),
        "7_1": Job("PENDING", "", "Priority"),
        "8": Job("FAILED", "", ""),
    }
    ((name, *options),) = said.calls
    assert name == "squeue" and {"--me", "-r", "--states=all"} <= set(options)


def test_an_empty_queue_is_an_answer_and_silence_is_none(said):
    assert queue.jobs() == {}
    said.code = 1
    assert queue.jobs() is None
    for error in (FileNotFoundError(), subprocess.TimeoutExpired("squeue", 60)):
        said.error = error
        assert queue.jobs() is None


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"])
def test_what_runs_or_will_run_is_alive(state):
    assert Job(state, "", "").is_alive


@pytest.mark.parametrize(
    "state", ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"]
)
def test_what_is_over_is_not(state):
    assert not Job(state, "", "").is_alive


@pytest.mark.parametrize(
    "text, jobs",
    [
        ("Other = 5\nMaxArraySize            = 1001\n", 1001),
        ("MaxArraySize = 0", 1),
        ("MaxArraySize = (null)", queue.LARGEST_ARRAY),
        ("", queue.LARGEST_ARRAY),
    ],
)
def test_the_largest_array_is_the_clusters(said, text, jobs):
    said.out = text
    assert queue.largest_array() == jobs


def test_jobs_are_cancelled_in_calls_that_a_command_line_holds(said):
    ids = [str(n) for n in range(450)]
    queue.cancel(ids)
    assert [len(call) - 1 for call in said.calls] == [200, 200, 50]
    assert [i for call in said.calls for i in call[1:]] == ids
    assert {call[0] for call in said.calls} == {"scancel"}
