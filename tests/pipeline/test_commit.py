"""A stage that is killed, or fails, at each of its steps in turn ends whole when it is begun again.

Steps are all calls that change a file or a folder: the N-th is counted down in a forked process,
which is killed there, or meets a full disk. No step is left to chance.
"""

import errno
import os
import signal
import sys

import numpy as np
import pytest

from piflow_bench.files.rows import Parts
from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers import execute as launch
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.store.attempts import begin, starts_of
from piflow_bench.pipeline.store.store import META, Store
from tests.pipeline.tasks import stage_of

STEPS = {"open", "write", "mkdir", "rename", "replace", "unlink", "remove", "rmdir"}
"""Calls of the system, by name: what lies between two of them leaves the disk as it is."""


def make(config, inputs, folder, runtime, report):
    """A resumable stage in miniature: rows kept in parts, a nested file, a word of progress."""
    report(0.5, "half")
    parts = Parts(folder / "parts", seconds=0.0)
    for row in range(parts.rows, 3):
        parts.add(1, x=np.full((1, 2), row, np.float32))
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "facts.json").write_text("{}")
    with (folder / "samples.npy").open("wb") as file:
        np.lib.format.write_array(file, parts.arrays()["x"])
    parts.forget()


EXPECTED = np.repeat(np.arange(3, dtype=np.float32)[:, None], 2, 1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for kind in ("sample", "draw"):
        monkeypatch.setattr(KINDS[kind], "run", make)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # A killed process loses nothing by it.
    monkeypatch.setattr(launch, "_provenance", lambda started: {"started": "now"})


def broken_off(store, stage, step, harm):
    """Make ``stage`` in a forked process that meets ``harm`` at a step; False: it has fewer."""
    pid = os.fork()
    if pid == 0:
        left, met = [step], []

        def count(frame, event, function):
            if event != "c_call" or function.__name__ not in STEPS:
                return
            left[0] -= 1
            if left[0] == 0:
                met.append(True)
                harm()

        code = 2
        try:
            sys.setprofile(count)
            execute(store, stage, Runtime())
            sys.setprofile(None)
            code = 1 if met else 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert status in (signal.SIGKILL, 0, 256), status
    return status != 0


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("kind, harm", [("sample", killed), ("draw", killed), ("sample", full)])
def test_every_step(tmp_path, kind, harm):
    step = 0
    while True:
        step += 1
        store, stage = Store(tmp_path / str(step)), stage_of(kind, step)
        store.prepare()
        if not broken_off(store, stage, step, harm):
            break
        assert store.broken() == [], step
        assert execute(store, stage, Runtime()) == ("done", "", ""), step
        folder = store.path(stage)
        there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert there == {META, "samples.npy", "deep/facts.json"}, step
        assert set(store.meta(stage)["files"]) == there - {META}, step
        assert np.load(folder / "samples.npy").tobytes() == EXPECTED.tobytes(), step
        assert store.harm(stage.name) is None, step
        assert not list((store.root / "work").iterdir()), step
        assert not (store.root / "trash").exists(), step
    assert step > 40, f"the steps were not seen: {step}"


def test_a_commit_that_was_cut_short_is_ended_without_the_work(tmp_path, monkeypatch):
    store, stage = Store(tmp_path), stage_of("draw", 1)
    store.prepare()

    def cut(*_):
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", cut)
        assert execute(store, stage, Runtime())[0] == "failed"
    assert not store.has(stage)

    def again(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(KINDS["draw"], "run", again)
    assert execute(store, stage, Runtime()) == ("done", "", "")
    assert len(store.meta(stage)["starts"]) == 1
    assert store.harm(stage.name) is None


def test_a_record_of_other_files_is_not_believed(tmp_path):
    """A machine that lost power may have kept the record and lost the files."""
    store, stage = Store(tmp_path), stage_of("draw", 1)
    store.prepare()
    work = store.work(stage)
    work.mkdir()
    begin(work)
    (work / "samples.npy").write_bytes(b"half")
    (work / META).write_text('{"files": {"samples.npy": "0"}}')
    assert execute(store, stage, Runtime()) == ("done", "", "")
    assert np.load(store.path(stage) / "samples.npy").tobytes() == EXPECTED.tobytes()
    assert store.harm(stage.name) is None
    assert starts_of(work) == []


def test_parts_are_taken_up_to_the_first_gap(tmp_path):
    parts = Parts(tmp_path, seconds=0.0)
    for row in range(4):
        parts.add(1, x=np.full((1,), row))
    files = sorted(tmp_path.glob("*.npz"))
    files[2].write_bytes(files[2].read_bytes()[:-30])
    again = Parts(tmp_path, seconds=0.0)
    assert again.rows == 2
    assert sorted(tmp_path.glob("*.npz")) == files[:2]
    files[0].unlink()
    assert Parts(tmp_path).rows == 0
