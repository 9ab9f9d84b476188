"""`report --diff`: what changed beyond noise, and the exit code that says so."""

import json

import numpy as np
import pandas as pd
import pytest
from piflow_reports.data import merge
from piflow_reports.data.read import read

from piflow_bench.cli import main
from piflow_bench.errors import UserError
from tests.reports import synthetic


@pytest.fixture
def two(tmp_path):
    """The same run twice, and a way to change the second."""
    folders = [synthetic.write(tmp_path / name, seeds=5) for name in ("old", "new")]

    def alter(change):
        path = folders[1] / "results.parquet"
        table = pd.read_parquet(path)
        change(table)
        table.to_parquet(path, index=False)

    return *folders, alter


def diff(old, new):
    return main(["report", "--diff", str(old), str(new)])


def scale(name, metric, factor):
    def change(table):
        rows = (table.variant == name) & (table.metric == metric) & (table.nfe == 1)
        for column in ("value", "ci_low", "ci_high"):
            table.loc[rows, column] *= factor
        table.loc[rows, "replicates"] = table.loc[rows, "replicates"].map(lambda r: r * factor)

    return change


def test_a_run_and_itself_are_equal(two, capsys):
    old, new, _ = two
    assert diff(old, new) == 0
    out = capsys.readouterr().out
    assert "worse" not in out and "better" not in out and out.strip().endswith("equal")


@pytest.mark.parametrize(
    "metric, factor, verdict, code",
    [("fd", 1.2, "worse", 4), ("fd", 0.8, "better", 0), ("recall", 0.9, "worse", 4)],
)
def test_what_changed_is_named_with_its_direction(two, capsys, metric, factor, verdict, code):
    old, new, alter = two
    alter(scale("dmd2", metric, factor))
    assert diff(old, new) == code
    lines = capsys.readouterr().out.splitlines()
    (line,) = [text for text in lines if f" {verdict} " in text and "│" in text]
    assert "dmd2" in line
    assert any(text.startswith(f"1 {verdict}") for text in lines)


def test_a_cell_without_a_value_any_more_is_lost(two, capsys):
    old, new, alter = two

    def fail(table):
        rows = (table.variant == "meanflow") & (table.nfe == 4)
        table.loc[rows, "status"] = "failed"
        table.loc[rows, "value"] = np.nan

    alter(fail)
    assert diff(old, new) == 4
    assert "lost" in capsys.readouterr().out


def test_other_rules_are_refused_and_named(two, capsys):
    for folder, samples in zip(two[:2], (1000, 2000), strict=True):
        path = folder / "results.parquet"
        rules = json.dumps({"samples": samples, "k": 3})
        pd.read_parquet(path).assign(protocol=f"p{samples}", rules=rules).to_parquet(path)
    assert diff(*two[:2]) == 2
    error = capsys.readouterr().err
    assert "other rules" in error and "samples: 1000 and 2000" in error and "k:" not in error


def measures(folder, **values):
    path = folder / "run.json"
    names = {name.replace("_", " "): value for name, value in values.items()}
    path.write_text(json.dumps({**json.loads(path.read_text()), "measures": names}))


@pytest.mark.parametrize(
    "old, new, words",
    [
        ({"version_of_fd": 1, "version_of_kid": 1}, {"version_of_fd": 2}, "version of fd: 1 and 2"),
        ({"weights_of_LPIPS": "a"}, {"weights_of_LPIPS": "b"}, "weights of LPIPS: a and b"),
        ({"version_of_fd": 1}, {"version_of_fd": [1, "own"]}, "version of fd: 1 and [1, 'own']"),
        ({"version_of_fd": 1}, {"version_of_fd": 1, "version_of_kid": 3}, ""),
        ({"version_of_fd": 1}, {}, ""),
    ],
)
def test_values_of_other_versions_are_neither_compared_nor_ranked_together(
    old, new, words, two, capsys, tmp_path
):
    measures(two[0], **old)
    measures(two[1], **new)
    assert diff(*two[:2]) == (2 if words else 0)
    assert words in capsys.readouterr().err
    runs = merge.sections([read(folder) for folder in two[:2]])
    assert len(runs) == (2 if words else 1)
    assert merge.rules_apart(runs) == ([words] if words else [])
    if not words:  # A third is compared with all that any of them says.
        third = synthetic.write(tmp_path / "third")
        measures(third, version_of_kid=4)
        assert len(merge.sections([*runs, read(third)])) == (2 if "version_of_kid" in new else 1)


def test_two_trainings_of_the_same_are_seldom_told_apart():
    """Under the null: seeds trained again with other noise, 5 of them; any false alarm counts."""
    from piflow_reports.data import read as inputs
    from piflow_reports.data.run import Run
    from piflow_reports.diff import changes

    random = np.random.default_rng(0)
    alarms, runs = 0, 60
    for _ in range(runs):
        sides = []
        for name in ("old", "new"):
            table = synthetic.results(seeds=5, students=("dmd2", "piflow-gm8"), nfes=(1,))
            student = table.role == "student"
            noise = 1 + 0.05 * random.standard_normal(int(student.sum()))
            table.loc[student, "value"] *= noise
            sides.append(Run(name, inputs.normalise(table), pd.DataFrame(), None, {}))
        alarms += any(c.verdict in ("better", "worse", "differs") for c in changes(*sides))
    assert alarms / runs <= 0.12  # 5 % and its own sampling error, two standard errors.


def side(values, setting="", seeds=None):
    """A run of one student with these values of FD by train seed."""
    from piflow_reports.data import read as inputs
    from piflow_reports.data.run import Run

    table = synthetic.results(seeds=len(values), students=("dmd2",), nfes=(1,))
    table = table[(table.role == "student") & (table.metric == "fd")]
    table = table[(table.question == "imitation") & (table.budget_fraction == 1)]
    seed = table.train_seed.astype(int)
    table["value"] = np.array(values)[seed]
    table["replicates"] = [[] for _ in range(len(table))]
    table["train_seed"] = (np.arange(len(values)) if seeds is None else np.array(seeds))[seed]
    table["sampler"] = setting
    return Run("x", inputs.normalise(table), pd.DataFrame(), None, synthetic.info())


def test_direction_and_p_are_of_the_same_seeds():
    from piflow_reports.diff import changes

    old, new = side([5, 5.02, 4.98, 1, 1]), side([4.5, 4.51, 4.5])
    (found,) = changes(old, new)
    assert found.new > found.old and found.difference == pytest.approx(-0.4967, abs=1e-3)
    assert found.verdict == "better" and found.low < found.difference < found.high < 0


def test_other_seeds_are_no_change():
    from piflow_reports.diff import changes

    (found,) = changes(side([5, 5.02, 4.98]), side([4, 4.02, 3.98], seeds=[5, 6, 7]))
    assert found.verdict == "unknown" and found.seeds == 0


def test_a_setting_that_was_added_loses_nothing():
    from piflow_reports.data import read as inputs
    from piflow_reports.data.run import Run
    from piflow_reports.diff import changes

    old = side([5, 5.02, 4.98], "temperature=0.5")
    more = side([9, 9.02, 8.98], "temperature=1.0")
    both = pd.concat([old.results, more.results])
    new = Run("y", inputs.normalise(both), pd.DataFrame(), None, old.info)
    (found,) = changes(old, new)
    assert found.verdict == "equal" and found.difference == 0


def test_words_for_wrong_use(two, capsys, tmp_path):
    old, new, _ = two
    assert main(["report", "--diff", str(old)]) == 2
    assert "OLD NEW" in capsys.readouterr().err
    with pytest.raises(UserError, match="share no cell"):
        from piflow_reports.data import read as inputs
        from piflow_reports.data.run import Run
        from piflow_reports.diff import changes

        run = inputs.read(old)
        none = Run("none", run.results[run.results.variant == "x"], run.curves, None, {})
        empty = run.results.assign(variant="another")
        changes(run, Run("other", empty, none.curves, None, run.info))
