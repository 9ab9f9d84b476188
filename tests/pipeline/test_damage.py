"""Damage and edits: what is not what was recorded is named in one line and made anew."""

import errno
import json
import os
import signal

import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.pipeline import plugin_sources
from piflow_bench.pipeline.artifacts import NotFinite, write_samples
from piflow_bench.pipeline.kinds import KINDS
from piflow_bench.pipeline.launchers import local as launch
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.launchers.schedule import Outcome
from piflow_bench.pipeline.plan import make_plan, runtime_of
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.store.store import META, SMALL, Store
from tests.pipeline.harness import bits, places, results
from tests.pipeline.tasks import stage_of

PLUGIN = """
from piflow_methods.kd import KD


class Edited(KD):
    "Distillation by pairs, under a name of its own."
"""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def commit(store, stage, **files):
    work = store.work(stage)
    work.mkdir(parents=True)
    for name, content in files.items():
        (work / name).write_bytes(content)
    store.commit(stage, {})


# ------------------------------------------------------------------ artifacts


def harmed(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[:-1])
    elif how == "changed":
        content[0] ^= 1
        path.write_bytes(content)
    elif how == "gone":
        path.unlink()
    else:
        (path.parent / META).write_text('{"files"')


@pytest.mark.parametrize("how", ["cut", "changed", "gone", "without record"])
@pytest.mark.parametrize("size", [10, SMALL + 1])
def test_damage_is_found_before_use(store, how, size):
    stage = stage_of("draw", 1)
    commit(store, stage, samples=b"x" * size)
    user = stage_of("features", inputs={"samples": (stage,)})
    harmed(store.path(stage) / "samples", how)
    finished = store.set_aside_damaged([stage])
    # A large file of which nothing is to be made is looked at by its size alone.
    unread = how == "changed" and size > SMALL
    assert (stage.key in finished) != unread
    assert store.has(stage) == unread
    assert (stage.key in store.set_aside_damaged([stage, user])) == unread
    assert not store.has(stage) and not (store.root / "trash").exists()


def test_what_is_whole_stays_and_a_digest_is_taken_once(store, monkeypatch):
    stages = [stage_of("draw", n) for n in range(2)]
    for stage in stages:
        commit(store, stage, samples=b"x" * 10)
    user = stage_of("features", inputs={"samples": tuple(stages)})
    harmed(store.path(stages[1]) / "samples", "cut")
    asked = []
    look = Store._damage
    monkeypatch.setattr(
        Store,
        "_damage",
        lambda self, stage, d: asked.append((stage.key, d)) or look(self, stage, d),
    )
    assert set(store.set_aside_damaged([*stages, user])) == {stages[1].key}
    assert store.has(stages[0])
    whole = [each for each in asked if each[0] == stages[0].key]
    assert whole and len(whole) == len(set(whole))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_disk_that_does_not_answer_has_harmed_nothing(store, monkeypatch, number):
    stage = stage_of("draw", 1)
    commit(store, stage, samples=b"x" * 10)

    def fails(path):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("piflow_bench.pipeline.store.store.file_digest", fails)
        assert store.set_aside_damaged([stage]) == {}
        assert os.strerror(number) in store.harm(stage.name)
    assert store.has(stage) and store.harm(stage.name) is None


def test_what_another_run_made_anew_meanwhile_stays(store, monkeypatch):
    stage = stage_of("draw", 1)
    commit(store, stage, samples=b"x" * 10)
    harmed(store.path(stage) / "samples", "cut")
    guard = Store.guard

    def others_first(self, name, timeout):
        store.discard(store.path(stage))
        commit(store, stage, samples=b"x" * 10)
        return guard(self, name, timeout)

    monkeypatch.setattr(Store, "guard", others_first)
    assert store.set_aside_damaged([stage]) == {}
    assert store.has(stage) and store.harm(stage.name) is None


@pytest.mark.slow
def test_a_damaged_store_is_mended_by_the_same_command(tmp_path, capsys):
    arguments = ["run", "profile=smoke", "only=[teacher-euler]", "nfes=[1]", "launcher=debug"]
    arguments += places(tmp_path)
    assert main(arguments) == 0
    before = bits(results(tmp_path))
    artifacts = tmp_path / "store" / "artifacts"
    harmed(next(artifacts.glob("sample-*")) / "samples.npy", "cut")
    harmed(next(artifacts.glob("metrics-*")) / "metrics.json", "changed")
    capsys.readouterr()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("damaged ") == 2 and out.count("; it is made anew\n") == 2
    assert "samples.npy has " in out and "metrics.json was changed" in out
    assert "2 stages computed" in out
    assert bits(results(tmp_path)) == before
    assert Store(tmp_path / "store").broken() == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["converged", "sample", "draw"])
def test_samples_that_are_not_finite_are_no_artifact(store, monkeypatch, kind, value):
    x = torch.zeros(5, 1, 2, 2)
    x[3, 0, 1, 1] = value

    def make(config, inputs, folder, runtime, report):
        write_samples(folder, x, first=10)

    monkeypatch.setattr(KINDS[kind], "run", make)
    stage = stage_of(kind, 1)
    status, reason, _ = execute(store, stage, Runtime())
    assert status == "failed" and not store.has(stage)
    assert reason == "NotFinite: 1 of 5 samples are not finite; the first is sample 13"


def test_a_teacher_of_nan_is_no_reference(tmp_path, monkeypatch):
    from piflow_bench import sampling

    (config,) = compose(["profile=smoke"])
    stage = next(s for s in make_plan(config).stages if s.kind == "converged")
    monkeypatch.setattr(
        sampling, "converged", lambda *a, **k: (torch.full((4, 1, 8, 8), float("nan")), 32.0)
    )
    with pytest.raises(NotFinite, match="4 of 4"):
        stage.task.run({}, tmp_path, runtime_of(config), lambda *a: None)
    assert not (tmp_path / "samples.npy").exists()


# ------------------------------------------------------------------ sources


def attempts(store, monkeypatch, kind, runtime, stage):
    """Make a stage that keeps something and fails; what it found."""
    found = []

    def fails(config, inputs, folder, runtime, report):
        found.append((folder / "parts" / "1.npz").exists())
        (folder / "parts").mkdir(exist_ok=True)
        (folder / "parts" / "1.npz").touch()
        raise ValueError("stopped")

    monkeypatch.setattr(KINDS[kind], "run", fails)
    assert execute(store, stage, runtime)[0] == "failed"
    return found[0]


@pytest.mark.parametrize("kind", ["distill", "sample"])
def test_work_of_another_source_is_not_gone_on_from(store, monkeypatch, kind):
    stage = stage_of(kind, method="kd")
    digest = ["one"]
    monkeypatch.setattr(plugin_sources, "source_digest", lambda plugin: digest[0])
    go = [store, monkeypatch, kind, Runtime(), stage]
    assert [attempts(*go), attempts(*go)] == [False, True]
    digest[0] = "two"
    assert [attempts(*go), attempts(*go)] == [False, True]
    starts = store.starts(stage)
    assert [s.source for s in starts] == ["one", "one", "two", "two"]
    assert [bool(s.anew) for s in starts] == [False, False, True, False]


def test_a_file_that_was_edited_after_the_plan_fails_with_its_reason(store, tmp_path):
    (tmp_path / "edited.py").write_text(PLUGIN)
    stage = stage_of("distill", method="edited", source="of the plan")
    status, reason, _ = execute(store, stage, Runtime(plugins=str(tmp_path)))
    assert status == "failed"
    assert "the source of method 'edited' was edited after the run had begun" in reason


def plan_of(*settings):
    (config,) = compose(["profile=smoke", "nfes=[1]", *settings])
    return make_plan(config)


def test_an_edit_of_a_file_plugin_changes_what_it_makes_and_nothing_else(tmp_path):
    file = tmp_path / "edited.py"
    settings = ("only=[kd,dmd2]", "variants.kd.method=edited", f"plugins={tmp_path}")
    plans = []
    for text in (PLUGIN, PLUGIN + "# edited\n", PLUGIN):
        file.write_text(text)
        plans.append({s.name: s for s in plan_of(*settings).stages})
    first, second, third = plans
    assert first.keys() == third.keys()
    changed = [first[name] for name in first.keys() - second.keys()]
    assert changed and all("kd" in s.label for s in changed)
    assert any(s.kind == "distill" for s in changed)
    assert any("dmd2" in s.label for s in second.values())


# ------------------------------------------------------------------ workers


def test_a_crash_of_a_worker_leaves_its_stack(tmp_path):
    from piflow_bench.pipeline.launchers.local import _worker

    pid = os.fork()
    if pid == 0:
        launch._serve = lambda *a: os.kill(os.getpid(), signal.SIGSEGV)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _worker(None, "", Runtime(), 1, 1, 0, 0, str(tmp_path / "log"))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV
    assert "Segmentation fault" in (tmp_path / "log").read_text()


# ------------------------------------------------------------------ provenance


@pytest.mark.slow
def test_rows_tell_where_what_they_come_from_was_made(tmp_path, monkeypatch):
    """Trained on one machine by one commit, scored on another: each row names both."""
    from piflow_bench.pipeline.results.tables import results_table

    arguments = ["run", "profile=smoke", "only=[teacher-euler]", "nfes=[1]", "launcher=debug"]
    arguments += ["name=mine", *places(tmp_path)]
    assert main(arguments) == 0
    (config,) = compose(arguments[1:])
    plan, store = make_plan(config), Store(tmp_path / "store")
    (cell,) = [c for c in plan.cells if c.columns["variant"] == "teacher-euler"]
    for stage in cell.samples:
        path = store.path(stage) / META
        meta = json.loads(path.read_text())
        assert {"git_commit", "versions", "hardware", "node"} <= set(meta)
        assert meta["node"] and meta["hardware"] and meta["versions"]["python"]
        other = {"git_commit": "feed", "hardware": "a GPU", "node": "far"}
        other["versions"] = {**meta["versions"], "torch": "9.9"}
        path.write_text(json.dumps({**meta, **other}))
    table = results_table(plan, store, Outcome())
    mine = table[table.variant == "teacher-euler"]
    assert (mine["hardware"] == f"a GPU, {meta['hardware']}").all()
    assert (mine["node"] == f"far, {meta['node']}").all()
    assert mine["git_commit"].str.startswith("feed").all()
    assert (mine["sample_hardware"] == "a GPU").all() and (mine["train_hardware"] == "").all()
    torch_versions = {json.loads(text)["torch"] for text in mine["versions"]}
    assert torch_versions == {f"9.9, {meta['versions']['torch']}"}
    others = table[table.variant != "teacher-euler"]
    assert not others["hardware"].str.contains("GPU").any()
    assert set(table["run"]) == {"mine"} and set(table["experiment"]) == {"digits"}
