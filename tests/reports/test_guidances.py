"""Runs of one teacher under several guidances: which share a page, and what it says of them."""

import json
from dataclasses import fields

import pandas as pd
import pytest
from piflow_reports.data import guidances
from piflow_reports.data import read as inputs
from piflow_reports.data.merge import merge, sections
from piflow_reports.data.run import Run
from piflow_reports.data.series import CEILING

from piflow_bench.contracts.teacher import Guided
from piflow_bench.evaluation.protocols import GUIDANCE, rules_hash
from tests.reports.test_ways import INFO, row


def rules(scale=2.0, low=0.0, high=1.0, **changes):
    guidance = {"guidance": scale, "guidance_low": low, "guidance_high": high}
    return {"samples": 2000, "teacher": {"name": "dit", "settings": {"depth": 3, **guidance}}} | {
        **changes
    }


def run(name, stated, *rows):
    about = {"protocol": rules_hash(stated), "rules": json.dumps(stated)} if stated else {}
    table = inputs.normalise(pd.DataFrame([{**each, **about} for each in rows]))
    return Run(name, table, pd.DataFrame(), None, {**INFO, "name": name, "variants": []})


def student(name="kd", **changes):
    return row(name, None, "data", "fd", 3.0, **changes)


def control(scale, value=1.0, name=CEILING, **changes):
    own = row(name, scale, "data", "fd", value, role="control", track="none")
    return own | {"guidance": scale, "sampler": "adams", "nfe": None} | changes


def teacher(scale, sampler="solver=unipc"):
    own = row("teacher-unipc", scale, "data", "fd", 4.0, role="teacher", track="none")
    return own | {"guidance": scale, "sampler": sampler}


def of(scale, value=1.0, low=0.0, **changes):
    """A run whose teacher has a guidance."""
    return run(
        f"g{scale:g}",
        rules(scale, low),
        student(),
        control(scale, value),
        teacher(scale),
        **changes,
    )


def names(*runs):
    return sorted(merge(list(runs)).results["variant"].unique())


def test_guidance_is_what_every_teacher_has_of_it():
    assert {field.name for field in fields(Guided)} == {*GUIDANCE}


def test_runs_of_data_alone_that_differ_in_guidance_alone_share_a_page():
    one, two = of(1.0), of(1.5)
    assert len(sections([one, two])) == 1
    asks_more = run("both", rules(1.5), student(), row("kd", None, "imitation", "fd", 1.0))
    assert len(sections([one, asks_more])) == 2, "the teacher of another guidance is another target"
    assert len(sections([two, asks_more])) == 1, "by the same rules as ever"
    others = run("other", rules(1.5, samples=5000), student())
    assert len(sections([one, others])) == 2
    untold = run("untold", {}, student())
    assert len(sections([one, untold, of(1.0)])) == 2


def test_runs_whose_measure_or_guidance_says_nothing_of_a_joint_page_stand_apart():
    both = [of(1.0), of(1.5)]
    by_teacher = {"quality": "fd", "diversity": "teacher_mse"}
    for each in both:
        each.info["primary"] = {**each.info["primary"], **by_teacher}
    assert len(sections(both)) == 2
    untold = run("own", rules(None), student())
    assert len(sections([untold, of(1.5)])) == 2


def test_the_nearest_converged_teacher_is_the_ceiling_and_the_others_have_their_guidance():
    runs = [of(1.0, 3.0), of(1.5, 2.0), of(2.5, 9.0), of(1.5, 2.0)]
    found = merge(runs)
    assert sorted({*found.results.loc[found.results["role"] != "student", "variant"]}) == [
        "teacher-converged",
        "teacher-converged (guidance 1)",
        "teacher-converged (guidance 2.5)",
        "teacher-unipc (guidance 1)",
        "teacher-unipc (guidance 1.5)",
        "teacher-unipc (guidance 2.5)",
    ]
    assert merge(runs[::-1]).results.query("variant == @CEILING")["guidance"].tolist() == [1.5]
    assert "teacher-converged is of guidance 1.5" in " ".join(found.info["notes"])
    assert found.results["protocol"].nunique() == 1, "one ranking"
    (text,) = set(found.results["rules"])
    assert json.loads(text)["teacher"]["settings"] == {"depth": 3}


def test_runs_of_one_guidance_stay_as_they_are():
    found = merge([of(1.5), of(1.5)])
    controls = found.results[found.results["role"] != "student"]["variant"]
    assert sorted(controls) == ["teacher-converged", "teacher-unipc"]
    assert set(found.results["protocol"]) == {rules_hash(rules(1.5))}
    assert not found.info["notes"]


def test_guidances_of_one_scale_in_other_intervals_are_two():
    scaled = teacher(2.0, "solver=unipc, guidance=2.0")
    runs = [
        run("whole", rules(2.0), student(), control(2.0, 1.0), scaled),
        run("late", rules(2.0, 0.2, 0.8), student(), control(2.0, 4.0), scaled),
    ]
    assert [n for n in names(*runs) if "kd" not in n] == [
        "teacher-converged",
        "teacher-converged (guidance 2 for t in 0.2 to 0.8)",
        "teacher-unipc (guidance 2 for t in 0.2 to 0.8)",
        "teacher-unipc (guidance 2)",
    ]


def test_a_teacher_sampled_at_scales_of_its_own_is_one_in_all_runs():
    runs = [
        run(f"g{g}", rules(g), student(), teacher(2.0, "solver=unipc, guidance=2.0"))
        for g in (1.0, 1.5)
    ]
    assert "teacher-unipc" in names(*runs)


def test_controls_without_a_teacher_are_one_in_all_runs():
    real = control(None, name="real-vs-real", sampler="")
    runs = [run(f"g{g}", rules(g), student(), real) for g in (1.0, 1.5)]
    assert names(*runs) == ["kd (g1.0)", "kd (g1.5)", "real-vs-real"]
    assert len(merge(runs).results.query("variant == 'real-vs-real'")) == 1


def test_an_older_runs_ceiling_that_tells_no_guidance_is_of_its_rules():
    runs = [
        run("old", rules(1.0), control(None, 5.0)),
        run("new", rules(1.5), control(1.5, 1.0)),
    ]
    assert names(*runs) == ["teacher-converged", "teacher-converged (guidance 1)"]


@pytest.mark.parametrize(("metric", "kept"), [("teacher_mse", 0), ("fd", 2), ("recall", 2)])
def test_distances_to_each_runs_own_teacher_stand_in_no_common_ranking(metric, kept):
    of_each = row("kd", None, "data", metric, 0.5)
    runs = [run(f"g{g}", rules(g), of_each) for g in (1.0, 1.5)]
    assert len(merge(runs).results) == kept
    assert len(merge([runs[0], runs[0]]).results) == 2, "of one guidance they stay"


def test_without_a_ceiling_all_is_told_but_which_is_nearest():
    runs = [run(f"g{g}", rules(g), student()) for g in (1.0, 1.5)]
    (note,) = merge(runs).info["notes"]
    assert note.startswith("Teachers of several guidances (1, 1.5)")
    assert guidances.joined(runs[:1]) == (runs[:1], [{}], [])
