"""The run of an experiment: where it writes, its teacher's check, and what is said of failures."""

import errno
import io
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from piflow_bench.config.schema import ExperimentConfig, LauncherConfig
from piflow_bench.errors import UserError
from piflow_bench.pipeline import runner
from piflow_bench.pipeline.launchers.schedule import Failure, Outcome
from piflow_bench.pipeline.runner import store_of
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.tasks import stage_of

CONFIG = ExperimentConfig(name="mine", teacher={"name": "t"}, check_teacher=True)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def finish(store, stage, **files):
    work = store.work(stage)
    work.mkdir()
    for name, text in files.items():
        (work / name.replace("_", ".")).write_text(text)
    store.commit(stage, {})


def test_the_store_is_the_one_that_is_named_then_the_environments_then_the_runs(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIFLOW_BENCH_STORE", raising=False)
    assert store_of(replace(CONFIG, runs="r")).root == tmp_path / "r" / "store"
    monkeypatch.setenv("PIFLOW_BENCH_STORE", "shared")
    assert store_of(CONFIG).root == tmp_path / "shared"
    assert store_of(replace(CONFIG, store="mine")).root == tmp_path / "mine"


def test_only_slurms_jobs_are_left_alone():
    with pytest.raises(UserError, match="^--detach: needs launcher=slurm$"):
        runner.run_experiment(CONFIG, "command", detach=True)


# ------------------------------------------------------------------ the teacher's check


def plan_of(*before, launcher="local"):
    inputs = {"teacher": before} if before else {}
    config = replace(CONFIG, launcher=LauncherConfig(name=launcher))
    return SimpleNamespace(config=config, check=stage_of("teacher_check", inputs=inputs))


def passed(plan, store, folder):
    console = Console(file=io.StringIO(), width=200)
    outcome = runner._pass_check(plan, store, SimpleNamespace(console=console), folder)
    return outcome, console.file.getvalue()


@pytest.fixture
def launched(monkeypatch, store):
    """Who made which stages; a check is made with the note that is set here."""
    found = SimpleNamespace(by=[], note="", failure=None)

    def made(who, stages):
        found.by.append((who, [s.kind for s in stages]))
        outcome = Outcome()
        for stage in stages:
            if found.failure and stage.kind == "teacher_check":
                outcome.failures[stage.key] = Failure(stage, found.failure)
                continue
            finish(store, stage, check_json=f'{{"note": "{found.note}"}}')
            outcome.done.add(stage.key)
        return outcome

    monkeypatch.setattr(runner, "run", lambda stages, store, runtime, who, *a: made(who, stages))
    monkeypatch.setattr(runner, "_launch", lambda config, stages, *a: made("launched", stages))
    return found


def test_a_check_alone_is_made_in_this_process(launched, store, tmp_path):
    launched.note = "odd"
    plan = plan_of()
    outcome, words = passed(plan, store, tmp_path)
    assert launched.by == [("debug", ["teacher_check"])] and outcome.done == {plan.check.key}
    assert words == "teacher: odd\n"
    outcome, words = passed(plan, store, tmp_path)
    assert len(launched.by) == 1 and not outcome.done and words == "", "it was passed before"


@pytest.mark.parametrize(
    "plan", [plan_of(stage_of("teacher")), plan_of(launcher="slurm")], ids=["weights", "slurm"]
)
def test_with_weights_to_be_made_or_a_cluster_the_launcher_makes_it(
    plan, launched, store, tmp_path
):
    passed(plan, store, tmp_path)
    ((who, kinds),) = launched.by
    assert who == "launched" and kinds[-1] == "teacher_check"


def test_a_teacher_of_other_data_is_refused_in_one_line(launched, store, tmp_path):
    launched.failure = "Unfit: it predicts noise"
    with pytest.raises(UserError, match=r"^teacher=t: it predicts noise \(check_teacher=false "
                       r"goes on all the same\)$"):  # fmt: skip
        passed(plan_of(), store, tmp_path)
    launched.failure = "OSError: odd"
    outcome, _ = passed(plan_of(), store, tmp_path)
    assert outcome.failures, "no verdict on the teacher: the run says what failed"


def test_without_a_check_nothing_is_made(launched, store, tmp_path):
    plan = SimpleNamespace(config=CONFIG, check=None)
    assert passed(plan, store, tmp_path)[0].done == set() and launched.by == []


# ------------------------------------------------------------------ folders and failures


def test_tracebacks_are_of_what_failed_itself_and_go_with_it(tmp_path):
    one, two = stage_of("draw", 1, label="one"), stage_of("draw", 2, label="two")
    failures = {one.key: Failure(one, "ValueError: why", "Traceback of one"),
                two.key: Failure(two, "needs one: ValueError: why", root=one)}  # fmt: skip
    runner._write_failures(tmp_path, Outcome(failures=failures))
    text = (tmp_path / "failures.log").read_text()
    assert text == f"one ({one.name})\nTraceback of one\n"
    runner._write_failures(tmp_path, Outcome())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    config, folder = replace(CONFIG, runs="r"), tmp_path / "r" / "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="store="):
        runner._prepare_folders(folder, Store(tmp_path / "file" / "store"), config)
    assert not folder.parent.exists(), "what was new is taken away again"

    def full(path, *a, **k):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(UserError) as error:
        runner._prepare_folders(folder, Store(tmp_path / "store"), config)
    assert str(error.value) == (
        "runs=r: cannot be written (No space left on device); free space or choose another "
        "runs=PATH"
    )


@pytest.mark.parametrize("number, user", [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_full_disk_is_the_users_and_what_is_odd_is_not(number, user):
    with pytest.raises(UserError if user else OSError), runner._machine():
        raise OSError(number, os.strerror(number))


def test_damage_and_another_source_are_said(store, tmp_path, monkeypatch):
    stage = stage_of("draw", label="mine")
    finish(store, stage, x_txt="content")
    (store.path(stage) / "x.txt").write_text("cut")
    console = Console(file=io.StringIO(), width=300)
    plan = SimpleNamespace(stages=[stage])
    forced = []
    monkeypatch.setattr(runner, "discard_outdated", lambda *a: forced.append(1))
    monkeypatch.setattr(runner, "warnings_of", lambda *a: [])
    assert not runner._look_after(plan, store, console, force=False) and not forced
    told = console.file.getvalue()
    assert told.startswith("damaged mine: x.txt ") and told.endswith("; it is made anew\n")
    monkeypatch.setattr(runner, "warnings_of", lambda *a: ["another source"])
    assert runner._look_after(plan, store, console, force=True) and forced
    assert console.file.getvalue().endswith("another source\n")
