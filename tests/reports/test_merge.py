"""Runs on one page: what is whose when names are the same."""

import pandas as pd
import pytest
from piflow_reports.data import read as inputs
from piflow_reports.data.merge import merge
from piflow_reports.data.run import Run

from tests.reports.test_ways import INFO, row


def run(name, *rows):
    table = inputs.normalise(pd.DataFrame(rows))
    return Run(name, table, pd.DataFrame(), None, {**INFO, "name": name, "variants": []})


def named(*runs):
    return sorted(merge(list(runs)).results["variant"])


def student(**changes):
    return row("kd", None, "data", "fd", 3.0, **changes)


def control(scale, value=1.0, name="converged"):
    own = row(name, scale, "data", "fd", value, role="control", track="none")
    return own | {"guidance": scale, "sampler": "adams"}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("digits-g.1", "digits-g.2"), ("kd (digits-g.1)", "kd (digits-g.2)")),
        (("digits_half", "digits-whole"), ("kd (half)", "kd (whole)")),
        (("new", "next"), ("kd (new)", "kd (next)")),
        (("a", "a_more"), ("kd (a)", "kd (a_more)")),
    ],
)
def test_a_student_of_two_runs_has_the_part_of_their_names_that_differs(names, shown):
    assert named(*(run(name, student()) for name in names)) == list(shown)


def test_a_student_of_one_run_keeps_its_name():
    assert named(run("a", student()), run("b", row("dmd2", None, "data", "fd", 2.0))) == [
        "dmd2",
        "kd",
    ]


def test_controls_of_several_guidances_are_told_apart_and_of_one_stay_once():
    runs = [run(f"r{i}", control(scale)) for i, scale in enumerate((1.0, 1.5, 1.5))]
    assert named(*runs) == ["converged (guidance 1)", "converged (guidance 1.5)"]
    assert named(*runs[1:]) == ["converged"]
    assert named(run("a", control(None)), run("b", control(None))) == ["converged"]
    older = run("older", control(None))
    assert named(older, *runs[:2]) == [
        "converged",
        "converged (guidance 1)",
        "converged (guidance 1.5)",
    ]
