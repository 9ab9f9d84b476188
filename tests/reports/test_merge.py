"""Runs on one page: what is whose when names are the same."""

from dataclasses import replace

import pandas as pd
import pytest
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.data.merge import merge
from piflow_reports.data.run import Run
from piflow_reports.sections.comparisons import _when

from tests.reports.test_ways import INFO, row


def run(name, *rows):
    table = inputs.normalise(pd.DataFrame(rows))
    return Run(name, table, pd.DataFrame(), None, {**INFO, "name": name, "variants": []})


def declaring(name, day, family):
    made = run(name, row(name, None, "data", "fd", 2.0))
    return replace(made, info=made.info | {"family": family, "provenance": {"started": day}})


def test_the_last_declaration_holds_and_says_which_runs_were_there_before():
    old = declaring("a", "2026-01-01", {"leader": "a"})
    same = declaring("b", "2026-01-02", {"leader": "a", "entries": {}})
    new = declaring("c", "2026-01-03", {"leader": None, "entries": {"1": ["a", "c"]}})
    primary = frames.primary(merge([old, same]).info, old.results)
    assert (primary.leader, primary.after) == ("a", ())
    found = merge([old, new, same])
    primary = frames.primary(found.info, found.results)
    assert (primary.entries, primary.after) == ({1: ["a", "c"]}, ("a", "b"))
    assert _when(primary) == "after a and b had run, which declared other comparisons"
    assert _when(frames.primary(old.info, old.results)) == "before the run"


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
        (("digits-half", "digits_half"), ("kd (digits-half)", "kd (digits_half)")),
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
    assert named(older, runs[0]) == ["converged"], "what an older run does not tell parts nothing"
    assert named(older, *runs[:2]) == [
        "converged",
        "converged (guidance 1)",
        "converged (guidance 1.5)",
    ]
