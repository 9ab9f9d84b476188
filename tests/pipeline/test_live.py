"""`report --watch`: a page of what is finished by now, while another process runs."""

import json
import subprocess
import sys
import time

import pandas as pd
import piflow_reports
import pytest

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.pipeline import live
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.runner import store_of
from tests.pipeline.forked import Forked
from tests.pipeline.harness import STUDENTS, places


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def going_on(tmp_path_factory):
    """A run in another process that makes some results at once, and then trains for long.

    One for all tests, of which the last one kills it.
    """
    root = tmp_path_factory.mktemp("going on")
    settings = [*STUDENTS, "launcher.workers=2", "only=[piflow-gm8]", "budget.amount=100000"]
    process = Forked(["run", *settings, *places(root)], root)
    until(lambda: list((root / "store" / "artifacts").glob("metrics-*")))
    yield root / "runs" / "digits-smoke", process
    process.kill()
    process.wait()


def test_a_run_tells_that_it_goes_on(going_on):
    folder, _ = going_on
    facts = json.loads((folder / live.LIVE).read_text())
    assert facts["command"].startswith("python -m piflow_bench run")
    assert live.goes_on(folder)


def test_the_page_of_a_run_that_goes_on(going_on, tmp_path, monkeypatch):
    folder, _ = going_on
    monkeypatch.chdir(folder)
    run = live.running(folder)
    out = tmp_path
    stamp = live.snapshot(run, out, piflow_reports.build)
    done = int(stamp.removesuffix("-0"))
    assert 0 < done < len(run.plan.stages)
    table = pd.read_parquet(out / "results.parquet")
    assert len(table) and (table.status == "ok").all(), "what is to come is no failure"
    assert "piflow-gm8" not in set(table.variant)
    page = (out / "report.html").read_text()
    assert f'data-live="{stamp}"' in page and stamp in (out / live.STAMP).read_text()
    assert f"{done} of {len(run.plan.stages)} stages are finished" in page
    assert not (folder / "results.parquet").exists(), "the run's own files are the run's"
    # What the launcher tells of failed at once, with all that needs it.
    (stage,) = [s for s in run.plan.stages if s.kind == "distill"]
    told = (folder / live.LIVE).read_text()
    facts = json.loads(told) | {"failures": [[stage.key, "loss is not finite"]]}
    (folder / live.LIVE).write_text(json.dumps(facts))
    assert live.snapshot(run, out, piflow_reports.build) != stamp
    (folder / live.LIVE).write_text(told)
    page = (out / "report.html").read_text()
    assert "Some results are missing" in page and "loss is not finite" in page


def test_watching_ends_with_a_run_that_is_killed(going_on):
    folder, process = going_on
    watcher = subprocess.Popen(
        [sys.executable, "-m", "piflow_bench", "report", "--watch", str(folder)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watcher.stdout.readline().strip() == str(folder / "live" / "report.html")
    until(lambda: (folder / "live" / "report.html").exists())
    process.kill()
    process.wait()
    assert (folder / live.LIVE).exists(), "nobody took it back"
    page = folder / "live" / "report.html"
    assert watcher.communicate(timeout=60)[0].strip() == str(page)
    assert watcher.returncode == 0 and "data-live" not in page.read_text()
    assert not live.goes_on(folder)


def test_watching_leads_to_the_page_of_a_run_that_has_ended(tmp_path):
    folder = tmp_path / "runs" / "digits-smoke"
    process = Forked(["run", *STUDENTS, "only=[piflow-gm8]", *places(tmp_path)], tmp_path)
    until(lambda: (folder / live.LIVE).exists())
    watcher = subprocess.Popen(
        [sys.executable, "-m", "piflow_bench", "report", "--watch", str(folder)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.wait(timeout=200) == 0
    lines = watcher.communicate(timeout=90)[0].split()
    assert lines[-1] == str(folder / "report.html") and watcher.returncode == 0
    assert "../report.html" in (folder / "live" / "report.html").read_text()
    assert (folder / "report.html").is_file()


def test_a_second_run_leaves_the_telling_to_the_first(tmp_path):
    (config,) = compose(["profile=smoke", *places(tmp_path)])
    (tmp_path / "x").mkdir()
    store = store_of(config)
    with live.told(tmp_path / "x", config, store, "one"):
        with live.told(tmp_path / "x", config, store, "two") as note:
            note(make_plan(config).stages[0], "failed")
        assert json.loads((tmp_path / "x" / live.LIVE).read_text())["command"] == "one"
    assert not (tmp_path / "x" / live.LIVE).exists()


def test_no_run_is_the_users_mistake(tmp_path, capsys):
    assert main(["report", "--watch", str(tmp_path)]) == 2
    assert "no run goes on" in capsys.readouterr().err
    assert main(["report", "--watch", str(tmp_path), str(tmp_path)]) == 2


def test_an_ended_run_is_not_going_on(tmp_path):
    settings = [*STUDENTS, "only=[teacher-euler]", "launcher=debug", *places(tmp_path)]
    assert main(["run", *settings]) == 0
    assert not (tmp_path / "runs" / "digits-smoke" / live.LIVE).exists()
