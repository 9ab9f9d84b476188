"""Launchers: failures stay alone, dead workers are forgiven once, and none changes a result."""

import json
import multiprocessing
import subprocess
import sys

import pytest

from piflow_bench.pipeline.launchers.local import run_local
from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.stages.features import Describe
from piflow_bench.pipeline.stages.samples import Draw
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.harness import STUDENTS, bits, call, places, results, run

RAISES = """
from piflow_methods.kd import KD


class Raises(KD):
    "Fails in its first step."

    def training_step(self, batch, context):
        raise RuntimeError("out of <luck> [/red]")
        yield
"""
DIES_ONCE = """
import os, signal
from pathlib import Path
from piflow_methods.dmd2 import DMD2


class DiesOnce(DMD2):
    "Its worker dies the first time, after a state was saved."

    def training_step(self, batch, context):
        mark = Path(os.environ["MARK"])
        if context.step == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().training_step(batch, context)
"""
DIES = """
import os, signal
from piflow_methods.piflow.method import PiFlow


class Dies(PiFlow):
    "Its worker dies every time."

    def training_step(self, batch, context):
        os.kill(os.getpid(), signal.SIGKILL)
        yield
"""
METHODS = (
    "variants.kd.method=raises",
    "variants.dmd2.method=dies_once",
    "variants.piflow-gm8.method=dies",
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An undisturbed run of three students, in worker processes."""
    folder = tmp_path_factory.mktemp("plain")
    done = run(*STUDENTS, "launcher.workers=2", *places(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0 failed" in done.stdout
    return folder


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """The same with three methods that fail in three ways."""
    folder = tmp_path_factory.mktemp("disturbed")
    plugins = folder / "plugins"
    plugins.mkdir()
    for name, text in (("raises", RAISES), ("dies_once", DIES_ONCE), ("dies", DIES)):
        (plugins / f"{name}.py").write_text(text)
    settings = (*STUDENTS, *METHODS, "launcher.workers=2", "save_seconds=0", *places(folder))
    done = run(*settings, f"plugins={plugins}", cwd=folder, MARK=str(folder / "mark"))
    return folder, done


def test_debug_and_local_agree_to_the_last_bit(plain, tmp_path):
    done = call("run", *STUDENTS, "launcher=debug", *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert bits(results(tmp_path)) == bits(results(plain))


def test_a_second_run_computes_nothing(plain):
    before = (plain / "runs" / "digits-smoke" / "results.parquet").read_bytes()
    done = call("run", *STUDENTS, "launcher.workers=1", *places(plain), cwd=plain)
    assert done.returncode == 0, done.stderr
    assert "0 stages computed" in done.stdout
    assert (plain / "runs" / "digits-smoke" / "results.parquet").read_bytes() == before


def test_the_page_is_remade_only_if_something_changed(plain):
    settings = ["run", *STUDENTS, "launcher.workers=1", *places(plain)]
    page = plain / "runs" / "digits-smoke" / "report.html"
    call(*settings, cwd=plain)
    first = page.stat().st_mtime_ns
    done = call(*settings, cwd=plain)
    assert done.stdout.rstrip().endswith("report.html")
    assert page.stat().st_mtime_ns == first
    call(*settings, "title=Another", cwd=plain)
    assert "Another" in page.read_text() and page.stat().st_mtime_ns != first
    page.unlink()
    call(*settings, "title=Another", cwd=plain)
    assert "Another" in page.read_text()


class TestFailures:
    def test_exit_code_and_words(self, disturbed):
        _, done = disturbed
        assert done.returncode == 3
        assert "Traceback" not in done.stderr
        assert "training: RuntimeError: out of <luck> [/red]\n" in done.stdout
        assert done.stdout.rstrip().endswith("report.html")

    def test_fail_alone_and_the_others_finish(self, disturbed):
        folder, _ = disturbed
        table = results(folder)
        for variant in ("kd", "piflow-gm8"):
            rows = table[table.variant == variant]
            assert len(rows)
            assert (rows.status == "failed").all()
            assert rows.value.isna().all()
        assert (table[~table.variant.isin(["kd", "piflow-gm8"])].status == "ok").all()
        assert {"dmd2", "memoriser", "teacher-converged"} <= set(table.variant)

    def test_descendants_name_the_stage_that_failed(self, disturbed):
        table = results(disturbed[0])
        reasons = set(table[table.variant == "kd"].reason)
        start = "needs kd for 1 NFE, seed 0: training"
        assert reasons == {f"{start}: RuntimeError: out of <luck> [/red]"}

    def test_a_worker_that_dies_again_and_again_is_a_failure(self, disturbed):
        table = results(disturbed[0])
        (reason,) = set(table[table.variant == "piflow-gm8"].reason)
        assert "died 3 times (signal 9)" in reason

    def test_a_worker_that_dies_once_is_forgiven(self, disturbed, plain):
        folder, _ = disturbed
        assert (folder / "mark").exists()
        mine, other = results(folder), results(plain)
        columns = ["variant", "budget_fraction", "question", "extractor", "metric"]
        columns += ["value", "ci_low", "ci_high", "train_tfe", "train_steps"]
        mine = mine[mine.variant == "dmd2"][columns].reset_index(drop=True)
        other = other[other.variant == "dmd2"][columns].reset_index(drop=True)
        assert mine.to_json(double_precision=15) == other.to_json(double_precision=15)
        assert len(mine)

    def test_run_json_and_log_tell_why(self, disturbed):
        folder = disturbed[0] / "runs" / "digits-smoke"
        failures = json.loads((folder / "run.json").read_text())["failures"]
        assert {f["variant"] for f in failures} == {"kd", "piflow-gm8"}
        log = (folder / "failures.log").read_text()
        assert "Traceback" in log
        assert "raises.py" in log
        assert "died 3 times" in log

    def test_the_log_goes_when_all_is_well(self, disturbed):
        folder, _ = disturbed
        # What had failed is mended; what had not stays what it was.
        settings = (*STUDENTS, METHODS[1], f"plugins={folder / 'plugins'}", "launcher=debug")
        done = call("run", *settings, *places(folder), cwd=folder, MARK=str(folder / "mark"))
        assert done.returncode == 0, done.stderr
        assert not (folder / "runs" / "digits-smoke" / "failures.log").exists()
        assert Store(folder / "store").broken() == []


def test_shards_make_what_one_worker_makes(plain, tmp_path):
    """Samples and features in pieces of an index range: the same numbers to the last bit."""
    one = (*STUDENTS, "budget.checkpoints=[0.5,1.0]", "only=[piflow-gm8]", "sample_batch=20")
    settings = (*one, "shard=20", "launcher.workers=2")
    done = run(*settings, *places(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "store" / "artifacts").glob("sample-*"))) == 3 + 2
    whole = tmp_path / "whole"
    whole.mkdir()
    done = call("run", *one, "launcher=debug", *places(whole), cwd=whole)
    assert done.returncode == 0, done.stderr
    mine, other = bits(results(tmp_path)), bits(results(whole))
    assert mine.pop("artifact") != other.pop("artifact")
    assert mine == other


DATASET = {"name": "digits", "settings": {}}
SPACE = {"name": "grey-levels", "settings": {}}
GIVEN = Given(dataset={"name": "digits"}, teacher={"name": "digits"})


def test_workers_that_die_with_nothing_to_do_are_replaced(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    digest = Runtime(given=GIVEN).dataset().digest
    draws = [
        Stage(Draw(dataset={**DATASET, "digest": digest}, space=SPACE, split=split, seed=0, n=0))
        for split in ("train", "test")
    ]
    task = Describe(space=SPACE, extractors={"digits-pixels": {}}, judge=None)
    target = Stage(task, {"samples": tuple(draws)})
    done = []

    def notice(event, stage, words):
        if event == "done":
            done.append(stage.kind)
        if done == ["draw", "draw"] and event == "done":
            for process in multiprocessing.active_children():
                process.kill()
                process.join()

    outcome = run_local([*draws, target], store, Runtime(given=GIVEN), notice, workers=2, threads=1)
    assert not outcome.failures
    assert store.has(target)
    assert done == ["draw", "draw", "features"]
    assert not multiprocessing.active_children()


def test_workers_share_out_the_gpus():
    from piflow_bench.pipeline.launchers.local import visible_gpus

    assert [visible_gpus(slot, 2, None) for slot in range(3)] == ["0,1", "2,3", "4,5"]
    assert [visible_gpus(slot, 1, "GPU-a,GPU-b") for slot in range(2)] == ["GPU-a", "GPU-b"]
    assert visible_gpus(0, 8, "3,5") == "3,5"


SCRIPT = """
import sys
from piflow_bench.cli import main
print("begun", flush=True)
code = main(["run", "profile=smoke", "only=[teacher-euler]", "nfes=[1]", "launcher={launcher}",
    "protocol.extractors=[digits]", "protocol.metrics=[fd,recall]"])
print("ended", code)
"""


@pytest.mark.parametrize(
    "how, launcher",
    [
        ("script", "local"),
        ("stdin", "debug"),
        pytest.param("stdin", "local", marks=pytest.mark.thorough),
        pytest.param("script", "debug", marks=pytest.mark.thorough),
    ],
)
def test_workers_do_not_run_a_script_without_a_guard_again(how, launcher, tmp_path):
    text = SCRIPT.replace("{launcher}", launcher)
    (tmp_path / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py" if how == "script" else "-"],
        cwd=tmp_path, capture_output=True, text=True, input=text, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begun") == 1 and "ended 0" in done.stdout
