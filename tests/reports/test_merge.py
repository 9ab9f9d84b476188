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


def declaring(name, day, family, since="", trained=None):
    """A run of that day; one that tells no first training is of an earlier edition."""
    made = run(name, row(name, None, "data", "fd", 2.0))
    about = {"started": day, "declared": since}
    about |= {} if trained is None else {"first_training": trained}
    return replace(made, info=made.info | {"family": family, "provenance": about})


def said(*runs):
    found = merge(list(runs)) if len(runs) > 1 else runs[0]
    return frames.primary(found.info, found.results)


LEADER, NONE = {"leader": "a", "entries": {}}, {"leader": None, "entries": {}}
DAYS = [f"2026-01-0{day}T10:30:00Z" for day in range(1, 5)]


def test_the_last_declaration_holds_and_says_which_runs_were_there_before():
    old = declaring("a", DAYS[0], {"leader": "a"})
    same = declaring("b", DAYS[1], LEADER)
    new = declaring("c", DAYS[2], {"leader": None, "entries": {"1": ["a", "c"]}})
    assert (said(old, same).leader, said(old, same).after) == ("a", ())
    found = said(old, new, same)
    assert (found.entries, found.after) == ({1: ["a", "c"]}, ("a", "b"))
    assert _when(found) == "after a and b had run, which declared other comparisons"


def test_a_part_that_declares_nothing_takes_no_declaration_away():
    found = said(declaring("a", DAYS[0], LEADER), declaring("b", DAYS[1], NONE))
    assert (found.leader, found.after) == ("a", ())
    assert not said(declaring("a", DAYS[0], NONE), declaring("b", DAYS[1], NONE)).tested


@pytest.mark.parametrize(
    ("since", "trained", "when"),
    [
        (DAYS[0], DAYS[1], "before the run"),
        (DAYS[1], DAYS[1], "before the run"),
        (DAYS[1], "", "before the run"),
        ("", None, "in the experiment's file"),
        (
            DAYS[1],
            DAYS[0],
            "(as the store first saw on 2026-01-02 10:30 UTC, with students trained from "
            "2026-01-01 10:30 UTC on in it)",
        ),
    ],
)
def test_what_was_declared_after_students_were_trained_is_not_said_to_come_before(
    since, trained, when
):
    assert _when(said(declaring("a", DAYS[3], LEADER, since, trained))) == when


def test_of_parts_the_first_declaration_and_the_first_training_tell():
    first, second = (declaring(n, DAYS[3], LEADER, s, t) for n, s, t in
                     (("a", DAYS[1], DAYS[2]), ("b", DAYS[2], DAYS[3])))  # fmt: skip
    teachers = declaring("t", DAYS[3], LEADER, DAYS[2], "")
    assert _when(said(first, second, teachers)) == "before the run"
    early = declaring("c", DAYS[3], NONE, DAYS[3], DAYS[0])
    assert said(first, early).trained == DAYS[0]
    assert _when(said(first, early)).startswith("(as the store first saw on 2026-01-02 10:30")
    untold = declaring("d", DAYS[3], LEADER)
    assert _when(said(first, untold)) == "in the experiment's file"


def named(*runs):
    return sorted(merge(list(runs)).results["variant"])


def student(**changes):
    return row("kd", None, "data", "fd", 3.0, **changes)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("digits-g.1", "digits-g.2"), ("kd (g.1)", "kd (g.2)")),
        (("d-teacher.scale-1", "d-teacher.scale-1.5"), ("kd (scale-1)", "kd (scale-1.5)")),
        (("fashion_ladd", "fashion_kd"), ("kd (kd)", "kd (ladd)")),
        (("fashion-1", "fashion-2"), ("kd (fashion-1)", "kd (fashion-2)")),
        (("fashion_ect", "fashion_f_distill"), ("kd (ect)", "kd (f_distill)")),
        (("digits_half", "digits-whole"), ("kd (half)", "kd (whole)")),
        (("new", "next"), ("kd (new)", "kd (next)")),
        (("digits-half", "digits_half"), ("kd (digits-half)", "kd (digits_half)")),
        (("a", "a_more"), ("kd (a)", "kd (a_more)")),
    ],
)
def test_a_student_of_two_runs_has_the_part_of_their_names_that_differs(names, shown):
    assert named(*(run(name, student()) for name in names)) == sorted(shown)


def test_a_student_of_one_run_keeps_its_name():
    assert named(run("a", student()), run("b", row("dmd2", None, "data", "fd", 2.0))) == [
        "dmd2",
        "kd",
    ]
