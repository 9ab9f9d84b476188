"""How often a stage was begun, what was lost, and how long it will take still."""

import os
import time

import pytest

from piflow_bench.pipeline.store.attempts import STARTS, begin, starts_of


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
