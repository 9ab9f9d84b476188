"""How often a stage was begun, what was lost, and how long it will take still."""

import os
import time

import pytest

from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.status import line, status_of
from piflow_bench.pipeline.store import progress
from piflow_bench.pipeline.store.attempts import STARTS, begin, starts_of
from piflow_bench.pipeline.store.progress import progress_writer, read_progress
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.tasks import stage_of


def at(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (seconds, seconds))


def test_what_was_lost_is_what_came_after_the_last_state(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    begin(tmp_path)
    first = starts_of(tmp_path)[0]
    assert (first.job, first.lost, first.pid) == ("7", 0.0, os.getpid())
    at(tmp_path / "state" / "facts.json", first.time + 10)
    at(tmp_path / "progress.json", first.time + 25)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    begin(tmp_path)
    assert [s.lost for s in starts_of(tmp_path)] == [0.0, pytest.approx(15.0, abs=0.2)]
    assert starts_of(tmp_path)[1].job == "8_3"


def test_without_a_state_all_is_lost_and_without_a_word_nothing_is_known(tmp_path):
    begin(tmp_path)
    at(tmp_path / "progress.json", starts_of(tmp_path)[0].time + 25)
    begin(tmp_path)
    (tmp_path / "progress.json").unlink()
    begin(tmp_path)
    found = [s.lost for s in starts_of(tmp_path)]
    assert found == [0.0, pytest.approx(25.0, abs=0.2), 0.0]


@pytest.mark.parametrize("kept", ["checkpoints.json", "state.old/facts.json", "state/facts.json"])
def test_another_source_leaves_nothing_of_the_last_ones(kept, tmp_path):
    """What had ended but was not yet an artifact counts, too."""
    begin(tmp_path, "one")
    at(tmp_path / kept, time.time())
    begin(tmp_path, "one")
    assert (tmp_path / kept).exists()
    begin(tmp_path, "two")
    assert [path.name for path in tmp_path.iterdir()] == [STARTS]
    assert [bool(s.anew) for s in starts_of(tmp_path)] == [False, False, True]


def test_a_damaged_record_begins_anew(tmp_path):
    (tmp_path / STARTS).write_text("[{")
    begin(tmp_path)
    assert len(starts_of(tmp_path)) == 1


def test_time_left_is_by_the_pace_of_this_attempt(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    report = progress_writer(tmp_path)
    report(0.5, "goes on from half")
    assert read_progress(tmp_path).left is None
    now[0] += 10
    report(0.6, "on")
    assert read_progress(tmp_path).left == pytest.approx(40.0)


def test_status_tells_of_beginnings_and_losses(tmp_path, monkeypatch):
    store, stage = Store(tmp_path), stage_of("sample", 1, label="samples of mine")
    store.prepare()
    attempts = []

    def fails(config, inputs, folder, runtime, report):
        attempts.append(sorted(p.name for p in folder.iterdir()))
        report(0.3, "thirty")
        at(folder / "parts" / "1.npz", time.time())
        raise OSError("a node was lost")

    monkeypatch.setattr(KINDS["sample"], "run", fails)
    for _ in range(2):
        assert execute(store, stage, Runtime())[0] == "failed"
    assert attempts == [[STARTS], ["parts", "progress.json", STARTS]], "what it had is kept"
    status = status_of(store, stage)
    assert (status.state, status.share, len(status.starts)) == ("stopped", 0.3, 2)
    assert "samples of mine; thirty" in line(status) and "begun 2 times" in line(status)
