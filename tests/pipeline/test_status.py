"""The state of every stage, by the store and Slurm's queue, and its words."""

import pytest

from piflow_bench.pipeline import status as S
from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.launchers.slurm import queue
from piflow_bench.pipeline.launchers.slurm.records import FOLDER, write_outcome, write_record
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.status import (
    StageStatus,
    is_locked,
    line,
    print_status,
    status_of,
    statuses_of,
    summary,
)
from piflow_bench.pipeline.store.attempts import STARTS, Start, begin
from piflow_bench.pipeline.store.progress import progress_writer
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.tasks import stage_of

PENDING = queue.Job("PENDING", "", "Priority")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    (tmp_path / FOLDER).mkdir()
    return store


def test_status_tells_of_beginnings_and_losses(tmp_path, monkeypatch):
    store, stage = Store(tmp_path), stage_of("sample", 1, label="samples of mine")
    store.prepare()
    attempts = []

    def fails(config, inputs, folder, runtime, report):
        attempts.append(sorted(p.name for p in folder.iterdir()))
        report(0.3, "thirty")
        (folder / "parts").mkdir(exist_ok=True)
        (folder / "parts" / "1.npz").touch()
        raise OSError("a node was lost")

    monkeypatch.setattr(KINDS["sample"], "run", fails)
    for _ in range(2):
        assert execute(store, stage, Runtime())[0] == "failed"
    assert attempts == [[STARTS], ["parts", "progress.json", STARTS]], "what it had is kept"
    status = status_of(store, stage)
    assert (status.state, status.share, len(status.starts)) == ("stopped", 0.3, 2)
    assert "samples of mine; thirty" in line(status) and "begun 2 times" in line(status)


def test_nothing_was_begun_something_is_there_and_all_is_made(store):
    stage = stage_of("draw")
    assert status_of(store, stage) == StageStatus(stage, "missing", starts=[])
    store.work(stage).mkdir()
    begin(store.work(stage))
    progress_writer(store.work(stage))(0.4, "on it")
    found = status_of(store, stage)
    assert (found.state, found.share, found.text, found.left) == ("stopped", 0.4, "on it", None)
    store.commit(stage, {})
    assert status_of(store, stage) == StageStatus(stage, "done", 1.0)


def test_who_holds_the_lock_is_running_whatever_the_queue_says(store):
    stage = stage_of("draw")
    write_record(store, stage, "7", store.root / "log")
    with store.lock(stage):
        assert status_of(store, stage, {"7": PENDING}).state == "queued", "it waits for the lock"
        store.work(stage).mkdir()
        assert is_locked(store, stage)
        found = status_of(store, stage, {"7": PENDING})
        assert (found.state, found.job, found.log) == ("running", "7", str(store.root / "log"))
    assert not is_locked(store, stage)


@pytest.mark.parametrize(
    "outcome, job, state, words",
    [
        (None, PENDING, "queued", "waits: Priority"),
        (None, queue.Job("RUNNING", "n", "None"), "queued", ""),
        (None, queue.Job("COMPLETED", "n", "None"), "missing", ""),
        (None, None, "missing", ""),
        ("failed", PENDING, "failed", "why"),
        ("environment", None, "failed", "why"),
        ("waiting", PENDING, "queued", "waits: Priority"),
        ("waiting", None, "missing", ""),
    ],
)
def test_what_slurm_says_of_a_stage(store, outcome, job, state, words):
    stage = stage_of("draw")
    write_record(store, stage, "7", store.root / "log")
    if outcome:
        write_outcome(store, stage, outcome, "why")
    found = status_of(store, stage, {"7": job} if job else {})
    assert (found.state, found.text) == (state, words)


def test_slurm_is_asked_once_and_only_if_it_was_given_something(store, monkeypatch):
    asked = []
    monkeypatch.setattr(S.queue, "jobs", lambda: asked.append(1) or {"7": PENDING})
    stages = [stage_of("draw", n) for n in range(3)]
    assert [s.state for s in statuses_of(store, stages)] == ["missing"] * 3 and not asked
    write_record(store, stages[1], "7", store.root / "log")
    assert [s.state for s in statuses_of(store, stages)] == ["missing", "queued", "missing"]
    assert asked == [1]


def test_states_are_counted_by_kind():
    draw, sample = stage_of("draw"), stage_of("sample", method="kd")
    found = summary([StageStatus(draw, "done"), StageStatus(draw, "done"),
                     StageStatus(draw, "missing"), StageStatus(sample, "failed")])  # fmt: skip
    assert found == {"draw": {"done": 2, "missing": 1}, "sample": {"failed": 1}}


def test_a_stage_in_words():
    stage = stage_of("draw", label="mine")
    start = Start(0.0, "node", None, 1, lost=30.0)
    running = StageStatus(stage, "running", 0.5, "half", 300.0, [start], "7", "a log")
    assert line(running) == "running  50% mine; half; 5 min left; job 7; on node; a log"
    again = StageStatus(stage, "queued", 0.0, starts=[start, start], log="a log")
    assert line(again) == "queued   0% mine; begun 2 times, 60 s of work lost"


def test_the_page_shows_counts_what_is_wrong_and_the_queue_in_short(store, monkeypatch, capsys):
    stages = [stage_of("draw", n, label=f"mine{n}") for n in range(4)]
    for n, stage in enumerate(stages[:3]):
        write_record(store, stage, f"7_{n}", store.root / "log")
    (store.root / "log").write_text("submitit words\n\nthe cause\n")
    write_outcome(store, stages[0], "failed", "ValueError: why")
    monkeypatch.setattr(S.queue, "jobs", lambda: {f"7_{n}": PENDING for n in range(3)})
    print_status("digits", store, stages, watch=False)
    told = capsys.readouterr().out
    assert "digits: status" in told and "missing" in told and "stopped" not in told
    assert "failed   0% mine0; ValueError: why; job 7_0" in told
    assert "    the cause" in told and "submitit" not in told
    assert "queued: 2 of job 7; draw; waits: Priority" in told


def test_watching_ends_when_all_is_made(store, monkeypatch, capsys):
    stage = stage_of("draw")

    def made_meanwhile(seconds):
        store.work(stage).mkdir()
        store.commit(stage, {})

    monkeypatch.setattr(S.time, "sleep", made_meanwhile)
    print_status("digits", store, [stage], watch=True)
    assert capsys.readouterr().out.count("digits: status") == 2
