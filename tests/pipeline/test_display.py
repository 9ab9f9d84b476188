"""What `run` says while it goes on, without a terminal, and once per cause at its end."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from piflow_bench.config.compose import compose
from piflow_bench.pipeline import display
from piflow_bench.pipeline.launchers import execute as launch
from piflow_bench.pipeline.launchers.schedule import Failure
from piflow_bench.pipeline.plan import make_plan, runtime_of
from piflow_bench.pipeline.store import store
from piflow_bench.pipeline.store.progress import Progress
from piflow_bench.training.loop import _progress_text
from tests.pipeline.tasks import stage_of


class Store:
    """A store that holds some stages, and what others last said."""

    def __init__(self, held=(), words=None):
        self.held, self.words = {s.key for s in held}, words or {}

    def has(self, stage):
        return stage.key in self.held

    def progress(self, stage):
        return self.words.get(stage.key)

    def starts(self, stage):
        return []


def stage(name, kind="distill", amount=3000.0, unit="tfe", weight=1.0):
    more = {"budget": {"unit": unit, "amount": amount}} if kind == "distill" else {}
    return stage_of(kind, name, label=name, weight=weight, **more)


def printed(width=200):
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def test_the_first_line_says_what_is_to_be_done():
    a, b, c = stage("a"), stage("b", amount=1500.0), stage("c", kind="sample")
    words = display.beginning("digits", [a, b, c], Store(), "2 workers")
    assert words == (
        "digits: 3 of 3 stages to do, 2 trainings of 4,500 TFE in all among them; 0 found in the "
        "store; 2 workers"
    )
    words = display.beginning("digits", [a, b, c], Store(held=[b, c]), "jobs of Slurm")
    assert words.startswith("digits: 1 of 3 stages to do, 1 training of 3,000 TFE in all")
    assert words.endswith("; 2 found in the store; jobs of Slurm")
    words = display.beginning("x", [c, stage("d", unit="images")], Store(held=[c]), "1 worker")
    assert "1 training of 3,000 images" in words
    assert "training" not in display.beginning("x", [c], Store(), "1 worker")


def test_a_line_now_and_then_where_there_is_no_terminal(monkeypatch):
    stages = [stage(n, weight=w) for n, w in (("a", 6.0), ("b", 2.0), ("c", 1.0), ("d", 1.0))]
    store = Store(words={
        s.key: Progress(0.5, f"step {i}", 9.0) for i, s in enumerate(stages[1:])
    })  # fmt: skip
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: clock.now)
    console = printed()
    shown = display.Display(stages, store, console, lambda stage, words: None)
    shown.notice("cached", stages[0], "")
    for each in stages[1:]:
        shown.notice("start", each, "")
    clock.now += display.EVERY - 1
    shown.tick()
    assert console.file.getvalue() == ""
    clock.now += 1
    shown.tick()
    shown.tick()
    # 2 of the 4 that were not cached are made in 30 s.
    line = "80% after 30 s; about 30 s left; b 50% (step 0); c 50% (step 1); 1 more\n"
    assert console.file.getvalue() == line
    shown.notice("done", stages[1], "")
    assert console.file.getvalue() == line + "done b\n"


def test_what_failed_is_said_once_per_cause():
    console = printed()
    root = stage("a")
    failures = [
        Failure(root, "loss is [nan]"),
        Failure(stage("b"), "loss is [nan]"),
        Failure(stage("c"), "no space"),
        Failure(stage("d"), "an input failed", root=root),
    ]
    display.print_causes(console, failures)
    assert console.file.getvalue().splitlines() == [
        "failed a and 1 more: loss is [nan]",
        "failed c: no space",
    ]


def test_between_updates_of_the_student_the_last_loss_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        launch, "progress_writer", lambda work: lambda share, text: said.append(text)
    )
    settings = ["profile=smoke", "only=[dmd2]", "nfes=[1]", "variants.dmd2.settings.ratio=5"]
    (config,) = compose(settings)
    held = store.Store(tmp_path)
    held.prepare()
    training = next(s for s in make_plan(config).stages if s.kind == "distill")
    assert launch.execute(held, training, runtime_of(config))[0] == "done"
    losses = [text.partition(", loss ")[2] for text in said]
    assert len(said) > 4 and all(losses) and "nan" not in losses
    assert len(set(losses)) < len(losses)


@pytest.mark.parametrize(("loss", "end"), [(None, "steps/s"), (0.25, "steps/s, loss 0.25")])
def test_a_loss_that_is_not_known_is_not_said(loss, end):
    words = _progress_text(SimpleNamespace(step=4, seconds=2.0), loss)
    assert words.endswith(end) and "nan" not in words


def test_what_was_made_before_all_others_counts_once():
    """A teacher that is trained and checked first is found in the store by what follows."""
    teacher, student = stage("teacher", weight=300.0), stage("student", weight=100.0)
    console = printed()
    shown = display.Display([teacher, student], Store(), console, lambda *told: None)
    shown.notice("start", teacher, "")
    shown.notice("done", teacher, "")
    shown.notice("cached", teacher, "")
    shown.notice("start", student, "")
    assert shown.finished == 300.0 and shown.cached == 0.0
    assert shown._line(shown.finished, [], 30.0) == "75% after 30 s; about 10 s left"
