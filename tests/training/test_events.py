"""TensorBoard's event files are the trainings' logs: every point once, whatever happened."""

import json
import os
from pathlib import Path

import pytest

from piflow_bench import interruption
from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.pipeline import loggers
from piflow_bench.pipeline.launchers.execute import execute
from piflow_bench.pipeline.launchers.local import run
from piflow_bench.pipeline.loggers import folders_of
from piflow_bench.pipeline.plan import make_plan, runtime_of
from piflow_bench.pipeline.stage import closure
from piflow_bench.pipeline.store.store import Store
from piflow_bench.training.events import PATTERN, Events, convert, followed, points

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="needs TensorBoard: pip install tensorboard",
)
TINY = [
    "profile=smoke", "nfes=[1]", "protocol.extractors=[digits]", "save_seconds=0",
    "protocol.questions=[imitation]", "protocol.metrics=[fd,recall]", "logger=tensorboard",
]  # fmt: skip


def row(step, **scalars):
    return {"step": step, "tfe": 2.0 * step, "images": 16 * step, "seconds": step / 4, **scalars}


def drawn(folder):
    """(step, value) of every point, by tag."""
    read = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {
        tag: [(e.step, pytest.approx(e.value, rel=1e-5)) for e in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def write(log, rows, end="\n"):
    log.write_text("\n".join(json.dumps(r) for r in rows) + end)


def test_points_of_a_line():
    first, second = row(2, loss=3.0, lr=0.1), row(6, lr=0.2, fake_lr=0.3)
    assert points(first, None) == {
        "spent/tfe": 4.0, "spent/images": 32, "spent/seconds": 0.5, "training/loss": 3.0,
        "training/lr": 0.1, "throughput/steps_per_second": 4.0,
        "throughput/images_per_second": 64.0,
    }  # fmt: skip
    later = points(second, first)
    assert later["throughput/steps_per_second"] == 4.0 and later["training/fake_lr"] == 0.3
    assert "training/loss" not in later  # Not every step has one.
    assert not any("throughput" in tag for tag in points(row(2) | {"seconds": 0.5}, first))


def test_a_log_is_followed_and_an_attempt_begins_it_anew(tmp_path):
    log, folder = tmp_path / "log.jsonl", tmp_path / "events"
    events = Events(log, folder)
    events.update()  # There is no log yet.
    write(log, [row(1, loss=1.0)], end='\n{"step": 2, ')
    events.update()
    write(log, [row(1, loss=1.0), row(2, loss=2.0), row(3, loss=3.0)])
    events.update()
    events.close()
    assert drawn(folder)["training/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    # It went on from its state of step 2, and took another way.
    write(log, [row(1, loss=1.0), row(2, loss=2.0)])
    with followed(log, str(folder), lambda share, text: None) as report:
        write(log, [row(1, loss=1.0), row(2, loss=2.0), row(4, loss=9.0)])
        report(0.5, "")
    assert drawn(folder)["training/loss"] == [(1, 1.0), (2, 2.0), (4, 9.0)]
    assert len(list(folder.glob(PATTERN))) == 1


def test_who_does_not_report_writes_nothing(tmp_path):
    write(tmp_path / "log", [row(1, loss=1.0)])
    for folder in (None, str(tmp_path / "events")):
        with followed(tmp_path / "log", folder, lambda share, text: None):
            pass
    assert not (tmp_path / "events").exists()


def test_a_finished_training_is_drawn_once(tmp_path):
    log, folder = tmp_path / "log.jsonl", tmp_path / "events"
    write(log, [row(1, loss=1.0), row(2, loss=2.0)])
    os.utime(log, (1000.0, 1000.0))
    convert(log, folder)
    (first,) = folder.glob(PATTERN)
    convert(log, folder)
    assert list(folder.glob(PATTERN)) == [first]
    read = event_accumulator.EventAccumulator(str(folder))
    read.Reload()
    times = [e.wall_time for e in read.Scalars("training/loss")]
    assert times == [999.75, 1000.0]


def rows_of(store, stage):
    lines = (store.path(stage) / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("launcher", ["debug", "local"])
def test_every_launcher_draws_what_the_logs_hold(launcher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIFLOW_BENCH_STORE", raising=False)
    settings = [*TINY, "only=[kd,dmd2]", f"launcher={launcher}", "launcher.workers=2"]
    assert main(["run", *settings]) == 0
    assert "tensorboard --logdir runs/digits-smoke/tensorboard" in capsys.readouterr().out
    store = Store(tmp_path / "runs" / "store")
    trainings = [s for s in make_plan(compose(settings)[0]).stages if s.kind == "distill"]
    folders = folders_of(trainings, Path("runs/digits-smoke"))
    assert {Path(f).name for f in folders.values()} == {"kd-seed0-1nfe", "dmd2-seed0-1nfe"}
    for stage in trainings:
        found, rows = drawn(folders[stage.name]), rows_of(store, stage)
        for name in ("loss", "lr", "grad_norm"):
            expected = [(r["step"], r[name]) for r in rows if name in r]
            assert expected and found[f"training/{name}"] == expected
        assert len(found["throughput/images_per_second"]) >= len(rows) - 1
    # Another run of the same trainings has its own, from the store; without a logger there is none.
    assert main(["run", *settings, "name=again"]) == 0
    again = folders_of(trainings, Path("runs/again"))
    assert all(drawn(again[s.name]) == drawn(folders[s.name]) for s in trainings)
    assert main(["run", *settings, "logger=null", "name=silent"]) == 0
    assert not (tmp_path / "runs" / "silent" / "tensorboard").exists()


def test_a_training_that_was_stopped_goes_on_without_doubled_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (config,) = compose([*TINY, "only=[kd]", "launcher=debug"])
    store, (stage, *_) = Store(tmp_path / "store"), [
        s for s in make_plan(config).stages if s.kind == "distill"
    ]  # fmt: skip
    store.prepare()
    folder = folders_of([stage], tmp_path / "run")
    from dataclasses import replace

    runtime = replace(runtime_of(config), events=folder)
    interruption.ask()
    try:
        with pytest.raises(interruption.Stopped):
            execute(store, stage, runtime)
    finally:
        interruption.forget()
    (events,) = folder.values()
    assert drawn(events)["training/lr"]
    assert stage.key in run(closure([stage]), store, runtime, "debug", 1, 1).done
    rows = rows_of(store, stage)
    assert drawn(events)["training/lr"] == [(r["step"], r["lr"]) for r in rows]
    assert len({r["step"] for r in rows}) == len(rows) > 2


def test_it_changes_no_key(tmp_path):
    plans = [make_plan(compose([*TINY, *more])[0]) for more in ([], ["logger=null"])]
    assert [s.name for s in plans[0].stages] == [s.name for s in plans[1].stages]


@pytest.mark.parametrize("verb", [["run"], ["run", "--plan"]])
def test_a_missing_package_is_refused_before_work(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    assert main([*verb, *TINY]) == 2
    said = capsys.readouterr()
    assert "pip install tensorboard" in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert main(["run", "logger=wandb"]) == 2
    assert "logger=wandb: must be tensorboard" in capsys.readouterr().err
