"""Making one artifact: what a task is given, what is found done, and whose failure it is."""

import errno
import json
import os

import pytest

from piflow_bench import interruption
from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers import execute as module
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.plugin_sources import SourceChanged
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.store.attempts import starts_of
from piflow_bench.pipeline.store.store import META, Store
from tests.pipeline.tasks import stage_of


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    return store


@pytest.fixture
def runs(monkeypatch):
    """What stages of two kinds do: resumable ``features`` and ``metrics``; the calls' arguments."""
    found = []

    def made(task, inputs, folder, runtime, report):
        found.append((task, inputs, folder, runtime))
        (folder / "done.txt").write_text("all")

    for kind in ("features", "metrics"):
        monkeypatch.setattr(KINDS[kind], "run", made)
    monkeypatch.setattr(module, "_provenance", lambda started: {"node": "here"})
    return found


def failing(monkeypatch, kind, error):
    def run(task, inputs, folder, runtime, report):
        (folder / "half.txt").write_text("half")
        raise error

    monkeypatch.setattr(KINDS[kind], "run", run)


def test_a_task_is_given_the_folders_of_its_inputs(store, runs):
    below = stage_of("draw", 1), stage_of("draw", 2)
    stage, runtime = stage_of("features", inputs={"samples": below}), Runtime(sample_batch=3)
    assert execute(store, stage, runtime) == ("done", "", "")
    ((task, inputs, folder, given),) = runs
    assert task is stage.task and given is runtime and folder == store.work(stage)
    assert inputs == {"samples": [store.path(s) for s in below]}
    assert (store.path(stage) / "done.txt").read_text() == "all"
    assert store.meta(stage)["node"] == "here" and len(store.starts(stage)) == 1


def test_what_is_made_is_not_made_again(store, runs):
    stage, before = stage_of("features"), []
    for _ in range(2):
        assert execute(store, stage, Runtime(), lambda: before.append(1))[0] == "done"
    assert len(runs) == len(before) == 1


def test_what_is_made_is_found_before_its_sources_are_looked_at(store, runs, monkeypatch):
    stage = stage_of("features")
    assert execute(store, stage, Runtime())[0] == "done"

    def look(stage, runtime):
        raise SourceChanged("edited")

    monkeypatch.setattr(module, "unchanged_source", look)
    assert execute(store, stage, Runtime())[0] == "done"
    other = stage_of("features", 7)
    assert execute(store, other, Runtime())[:2] == ("failed", "SourceChanged: edited")
    assert len(runs) == 1 and not store.work(other).exists()


def test_a_record_that_only_lacks_its_name_is_given_it(store, runs, monkeypatch):
    stage, rename = stage_of("features"), os.rename
    monkeypatch.setattr(os, "rename", lambda *a: (_ for _ in ()).throw(OSError("killed")))
    assert execute(store, stage, Runtime())[0] == "failed"
    monkeypatch.setattr(os, "rename", rename)
    assert execute(store, stage, Runtime())[0] == "done" and len(runs) == 1


@pytest.mark.parametrize(
    "error, words",
    [
        (ValueError("why\nand more"), "ValueError: why"),
        (KeyError(), "KeyError: "),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit("odd"), "GeneratorExit: odd"),
    ],
)
def test_a_failure_is_the_stages_own_with_one_line_and_a_traceback(
    store, runs, monkeypatch, error, words
):
    failing(monkeypatch, "metrics", error)
    stage = stage_of("metrics")
    status, reason, trace = execute(store, stage, Runtime())
    assert (status, reason) == ("failed", words) and trace.startswith("Traceback")
    assert not store.has(stage) and len(starts_of(store.work(stage))) == 1


@pytest.mark.parametrize("kind, kept", [("features", True), ("metrics", False)])
def test_on_a_full_disk_only_what_can_be_gone_on_from_is_kept(store, runs, monkeypatch, kind, kept):
    failing(monkeypatch, kind, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    stage = stage_of(kind)
    status, reason, _ = execute(store, stage, Runtime())
    assert status == "environment" and "free space" in reason
    assert (store.work(stage) / "half.txt").exists() == kept


@pytest.mark.parametrize("error", [KeyboardInterrupt, interruption.Stopped])
def test_who_is_asked_to_stop_has_not_failed(store, runs, monkeypatch, error):
    failing(monkeypatch, "features", error())
    stage = stage_of("features")
    with pytest.raises(error):
        execute(store, stage, Runtime())
    assert (store.work(stage) / "half.txt").exists()
    with store.lock(stage):
        pass  # It was given back.


def test_where_it_was_made_is_recorded(store, runs, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(KINDS["metrics"], "run", lambda *a: None)
    stage = stage_of("metrics")
    assert execute(store, stage, Runtime())[0] == "done"
    meta = json.loads((store.path(stage) / META).read_text())
    assert meta["pid"] == os.getpid() and meta["duration"] >= 0
    assert {"git_commit", "hardware", "node", "started", "versions"} <= set(meta)
