"""`status` and `cancel` ask about a run: they call no network, and stopping needs no dataset."""

from pathlib import Path

import pytest

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.data.digits import Digits
from piflow_bench.errors import UserError
from piflow_bench.networks.dit import DiT
from piflow_bench.pipeline.launchers.slurm import queue
from piflow_bench.pipeline.launchers.slurm.records import FOLDER, write_record
from piflow_bench.pipeline.plan import make_plan, world
from piflow_bench.pipeline.runner import store_of
from piflow_bench.pipeline.store.uses import record_use, settings_digest
from tests.pipeline.harness import forget

SETTINGS = ("profile=smoke", "only=[kd,teacher-euler]", "nfes=[1]")


@pytest.fixture
def cancelled(monkeypatch):
    """Ids of cancelled jobs, of a queue of four: three of the run's, one that is over."""
    found = []
    alive = {n: queue.Job("RUNNING", "node", "None") for n in ("7_0", "7_1", "8", "9")}
    monkeypatch.setattr(queue, "jobs", lambda: alive | {"6": queue.Job("COMPLETED", "", "")})
    monkeypatch.setattr(queue, "cancel", found.extend)
    return found


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """A run of which some stages were given to jobs."""
    monkeypatch.chdir(tmp_path)
    (config,) = compose(SETTINGS)
    stages, store = make_plan(config).stages, store_of(config)
    store.prepare()
    (store.root / FOLDER).mkdir()
    record_use(store, Path(config.runs) / config.name, stages, settings_digest(config))
    for stage, job in zip(stages, ("6", "7_0", "7_1", "8"), strict=False):
        write_record(store, stage, job, tmp_path / "log")
    return store


def broken(monkeypatch, how):
    """From here on the dataset is missing, or a plugin that cannot even be called."""

    def load(self, space, place):
        raise how

    monkeypatch.setattr(Digits, "load", load)
    forget()


BROKEN = {
    "missing": UserError("dataset.latents=LATENTS: no such folder"),
    "unreadable": OSError(5, "Input/output error"),
    "a plugin in the making": NameError("name 'torhc' is not defined"),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize(
    "others", [(), ("launcher=slurm", "launcher.poll_seconds=1"), ("sample_batch=3",)]
)
def test_cancel_needs_no_dataset(how, others, submitted, cancelled, monkeypatch, capsys):
    broken(monkeypatch, BROKEN[how])
    assert main(["cancel", *SETTINGS, *others]) == 0
    assert cancelled == ["7_0", "7_1", "8"]
    assert "3 jobs cancelled, of 7 8" in capsys.readouterr().out


def test_cancel_of_other_settings_stops_the_stages_that_they_name(submitted, cancelled):
    assert main(["cancel", *SETTINGS, "budget.amount=61"]) == 0
    first = len(cancelled)
    assert first < 3, "trainings of another budget are not this one's"
    assert main(["cancel", *SETTINGS]) == 0
    assert len(cancelled) == first + 3


def test_cancel_of_what_never_ran_says_what_is_wrong_with_the_dataset(
    submitted, cancelled, monkeypatch, capsys
):
    broken(monkeypatch, BROKEN["missing"])
    assert main(["cancel", *SETTINGS, "nfes=[4]"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cancelled == []


@pytest.mark.parametrize("verb", ["status", "cancel"])
@pytest.mark.parametrize("recorded", [True, False])
def test_no_network_is_called(verb, recorded, submitted, cancelled, monkeypatch, capsys):
    if not recorded:
        for record in (submitted.root / "uses").glob("*.json"):
            record.unlink()
    forget()
    monkeypatch.setattr(world, "_sound", {})
    monkeypatch.setattr(DiT, "forward", lambda *a, **k: pytest.fail("a network was called"))
    assert main([verb, *SETTINGS]) == 0
    assert ("3 jobs cancelled" if verb == "cancel" else "queued") in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["status", "cancel"])
def test_a_machine_without_gpus_may_ask_about_a_run_on_gpus(verb, submitted, cancelled):
    assert main([verb, *SETTINGS, "scale.device=cuda"]) == 0
