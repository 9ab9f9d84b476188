"""What a running stage says of itself, and how long it will take still."""

import pytest

from piflow_bench.pipeline.store import progress
from piflow_bench.pipeline.store.progress import EVERY, PROGRESS, progress_writer, read_progress


@pytest.fixture
def now(monkeypatch):
    """The time, to be set."""
    found = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: found[0])
    return found


def test_time_left_is_by_the_pace_of_this_attempt(now, tmp_path):
    report = progress_writer(tmp_path)
    report(0.5, "goes on from half")
    assert read_progress(tmp_path).left is None
    now[0] += 10
    report(0.6, "on")
    assert read_progress(tmp_path).left == pytest.approx(40.0)


def test_words_come_now_and_then(now, tmp_path):
    report = progress_writer(tmp_path)
    report(0.1, "first")
    now[0] += EVERY / 2
    report(0.2, "too soon")
    assert read_progress(tmp_path).text == "first"
    now[0] += EVERY
    report(0.3, "third")
    assert (read_progress(tmp_path).share, read_progress(tmp_path).text) == (0.3, "third")


def test_without_progress_nothing_is_known_of_the_end(now, tmp_path):
    report = progress_writer(tmp_path)
    for _ in range(2):
        report(0.25, "stuck")
        now[0] += 10
    assert read_progress(tmp_path).left is None


@pytest.mark.parametrize("text", [None, "[0.5", "[0.5]", "7"])
def test_a_record_that_is_not_there_or_damaged_is_no_word(text, tmp_path):
    if text is not None:
        (tmp_path / PROGRESS).write_text(text)
    assert read_progress(tmp_path) is None
