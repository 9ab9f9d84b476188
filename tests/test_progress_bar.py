"""How long work looks, with a terminal and without one."""

import io
import time

import numpy as np
import pytest
from rich.console import Console

import piflow_bench
from piflow_bench import progress_bar
from piflow_bench.cli import main
from piflow_bench.progress_bar import _Work, now_and_then, told


def quiet():
    return Console(file=io.StringIO(), width=60)


@pytest.mark.parametrize(
    "work, now, words",
    [
        (
            _Work("features of x", 512, 2048, 0.0, 0),
            60,
            "512 of 2,048 after 60 s; about 3 min left",
        ),
        # What an earlier call did says nothing of the pace.
        (_Work("features of x", 1600, 2000, 0.0, 1500), 100, "after 2 min; about 7 min left"),
        (_Work("features of x", 9, 1000, 0.0, 0), 30, "9 of 1,000 after 30 s"),
        (_Work("metrics of x", 0, 7, 10.0, 0), 40, "metrics of x: 0 of 7 after 30 s"),
        (_Work("metrics of x", 7, 7, 10.0, 0), 40, "7 of 7 after 30 s"),
    ],
)
def test_a_line_says_how_far_it_is_and_what_is_left(work, now, words):
    line = work.line(now)
    assert line.endswith(words) and line.startswith(work.what)


def test_without_a_terminal_lines_come_also_while_nothing_is_reported():
    console = quiet()
    with told(console, every=0.02) as report:
        time.sleep(0.05)
        report("features of [x]", 3, 9)
        report("features of [x]", 5, 9)
        time.sleep(0.05)
        report("metrics of [x]", 0, 7)
        time.sleep(0.05)
    lines = console.file.getvalue().splitlines()
    assert lines[0].startswith("opening and checking the inputs: 0 s")
    assert any(line.startswith("features of [x]: 5 of 9") for line in lines)
    assert any(line.startswith("metrics of [x]: 0 of 7") for line in lines)
    time.sleep(0.05)
    assert console.file.getvalue().splitlines() == lines, "it ends with the work"


def test_short_work_and_failures_leave_no_line():
    console = quiet()
    with told(console) as report:
        report("features", 1, 2)
    with pytest.raises(KeyError), told(console, every=10):
        raise KeyError
    assert not console.file.getvalue()


def test_on_a_terminal_each_kind_of_work_has_a_bar():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, _environ={})
    with told(console) as report:
        for what, total in (("features of x", 2048), ("metrics of x", 7)):
            for done in (0, total):
                report(what, done, total)
                time.sleep(0.15)
    shown = console.file.getvalue()
    assert "features of x" in shown and "metrics of x" in shown and "7 of 7" in shown
    silent = Console(file=io.StringIO(), force_terminal=True, _environ={})
    with told(silent):
        pass
    assert not silent.file.getvalue()


def test_evaluate_reports_features_and_metrics(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    seen = []
    piflow_bench.evaluate(
        {"a": rows, "b": 255 - rows}, rows[::-1] // 2, extractor="digits", cache=tmp_path,
        metrics=["fd", "vendi"], per_class=["vendi"], labels=np.arange(60) % 3,
        report=lambda *told: seen.append(told),
    )  # fmt: skip
    whats = list(dict.fromkeys(what for what, *_ in seen))
    assert whats == [
        "features of a", "features of reference", "metrics of a", "classes of a",
        "features of b", "metrics of b", "classes of b",
    ]  # fmt: skip
    assert ("metrics of a", 1, 2) in seen and ("metrics of b", 2, 2) in seen
    for what in whats:
        done = [d for w, d, _ in seen if w == what]
        assert done == sorted(done)


def test_the_command_speaks_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress_bar, "EVERY", 0.001)
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8))
    assert main(["evaluate", "samples=x.npy", "extractor=digits", "metrics=[vendi]", "out=o"]) == 0
    spoken = capsys.readouterr().err
    assert "features of samples: " in spoken and " of 60 after 0 s" in spoken
    assert all(line.count(" after ") + line.count("inputs: ") for line in spoken.splitlines())


def test_now_and_then_is_silent_between_two_words(monkeypatch):
    clock, said = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    report = now_and_then(said.append, every=5.0)
    for clock[0] in (1.0, 5.5, 6.0, 10.0, 10.6):
        report(f"at {clock[0]}")
    assert said == ["at 5.5", "at 10.6"]
