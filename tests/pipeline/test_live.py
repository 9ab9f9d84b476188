"""`report --watch`: a page of what is finished by now, while another process runs."""

import json
import subprocess
import sys
import time

import pandas as pd
import piflow_reports
import pytest

from piflow_bench.cli import main
from piflow_bench.pipeline import live
from tests.pipeline.harness import STUDENTS, command, places


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


@pytest.fixture
def going_on(tmp_path):
    """A run in another process that makes some results at once, and then trains for long."""
    settings = [*STUDENTS, "launcher.workers=2", "only=[piflow-gm8]", "budget.amount=100000"]
    process = subprocess.Popen(
        command(*settings, *places(tmp_path)), cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    folder = tmp_path / "runs" / "digits"
    until(lambda: list((tmp_path / "store" / "artifacts").glob("metrics-*")))
    yield folder, process
    process.kill()
    process.wait()


def test_the_page_of_a_run_that_goes_on(going_on, monkeypatch):
    folder, process = going_on
    monkeypatch.chdir(folder)
    run = live.running(folder)
    out = folder / "live"
    out.mkdir()
    done = live.snapshot(run, out, piflow_reports.build)
    assert 0 < done < len(run.plan.stages)
    table = pd.read_parquet(out / "results.parquet")
    assert len(table) and (table.status == "ok").all(), "what is to come is no failure"
    assert "piflow-gm8" not in set(table.variant)
    page = (out / "report.html").read_text()
    assert '<meta http-equiv="refresh" content="10">' in page
    assert f"{done} of {len(run.plan.stages)} stages are finished" in page
    assert not (folder / "results.parquet").exists(), "the run's own files are the run's"


def test_watching_ends_with_the_run(going_on):
    folder, process = going_on
    watcher = subprocess.Popen(
        [sys.executable, "-m", "piflow_bench", "report", "--watch", str(folder)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watcher.stdout.readline().strip() == str(folder / "live" / "report.html")
    until(lambda: (folder / "live" / "report.html").exists())
    process.kill()
    process.wait()
    (folder / live.LIVE).unlink()  # As a run that ends does.
    assert watcher.communicate(timeout=60)[0].strip() == str(folder / "report.html")
    assert watcher.returncode == 0 and not (folder / "live").exists()


def test_a_run_tells_that_it_goes_on_and_takes_it_back(going_on):
    folder, process = going_on
    facts = json.loads((folder / live.LIVE).read_text())
    assert facts["command"].startswith("python -m piflow_bench run")
    process.terminate()
    process.wait()


def test_no_run_is_the_users_mistake(tmp_path, capsys):
    assert main(["report", "--watch", str(tmp_path)]) == 2
    assert "no run goes on" in capsys.readouterr().err
    assert main(["report", "--watch", str(tmp_path), str(tmp_path)]) == 2


def test_an_ended_run_is_not_going_on(tmp_path):
    settings = [*STUDENTS, "only=[teacher-euler]", "launcher=debug", *places(tmp_path)]
    assert main(["run", *settings]) == 0
    assert not (tmp_path / "runs" / "digits" / live.LIVE).exists()
