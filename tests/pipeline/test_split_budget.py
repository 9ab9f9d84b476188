"""Specialists with one budget for all NFEs, beside a student whose one training serves them all."""

import json
import shlex

import pandas as pd
import pytest

from piflow_bench.config.compose import compose
from piflow_bench.errors import UserError
from piflow_bench.pipeline.launchers.slurm.settings import Cluster
from piflow_bench.pipeline.plan import make_plan
from tests.pipeline.harness import call, places


def planned(*settings):
    (config,) = compose(["experiment=digits", "profile=smoke", *settings])
    return make_plan(config)


def trainings(plan, name):
    """Stages of one variant's trainings, by NFE."""
    stages = {c.distill.key: c.distill for c in plan.cells if c.columns["variant"] == name}
    return {stage.task.train_nfe: stage for stage in stages.values()}


@pytest.mark.parametrize("nfes", [(1, 4), (1, 2, 4)])
def test_a_specialists_trainings_share_what_one_elastic_training_has(nfes):
    plan = planned(f"nfes={list(nfes)}", "only=[kd,dmd2,meanflow,teacher-euler]", "aa=true")
    names = [v.name for v in plan.variants]
    assert sorted(n for n in names if n.endswith("-split")) == ["dmd2-split", "kd-split"]
    (elastic,) = trainings(plan, "meanflow").values()
    whole, split = trainings(plan, "kd"), trainings(plan, "kd-split")
    assert set(split) == set(whole) == set(nfes)
    amounts = [stage.task.budget["amount"] for stage in split.values()]
    assert sum(amounts) == pytest.approx(elastic.task.budget["amount"])
    for nfe, stage in split.items():
        ours, theirs = stage.task.content, whole[nfe].task.content
        assert ours.pop("budget")["checkpoints"] == [1.0] and theirs.pop("budget")
        assert ours == theirs  # Settings, seed, teacher: all else is that of the whole budget.
    rows = {c.columns["variant"]: c.columns for c in plan.cells}
    assert rows["kd-split"]["track"] == "one budget" and rows["kd-split"]["shares"] == len(nfes)
    assert rows["meanflow"]["serves"] == ",".join(map(str, nfes))
    assert rows["kd"]["shares"] == 1 and rows["teacher-euler"]["serves"] == ""


def test_whoever_serves_fewer_nfes_shares_the_same_budget():
    stepwise = "variants.dmd2.nfes=[2,4]"
    alone = "variants.kd.nfes=[8]"
    elastic = "variants.meanflow.nfes=[1,2,4]"
    plan = planned("nfes=[1,2,4,8]", "only=[kd,dmd2,meanflow,piflow-gm8]", stepwise, alone, elastic)
    (one,) = trainings(plan, "meanflow").values()
    for name, nfes in (("dmd2-split", {2, 4}), ("piflow-gm8-split", {1, 2, 4})):
        shared = trainings(plan, name)
        assert set(shared) == nfes
        spent = sum(stage.task.budget["amount"] for stage in shared.values())
        assert spent == pytest.approx(one.task.budget["amount"])
    # Of one NFE the whole budget is the share, and of none of the elastic one's nothing is.
    assert not trainings(plan, "kd-split")


@pytest.mark.parametrize(
    "settings",
    [
        ["nfes=[1]"],
        ["only=[kd,dmd2]"],
        ["only=[meanflow]"],
        ["split_budget=false"],
        ["variants.meanflow.settings.distill=false"],  # Another track: nobody is beside it.
        ["variants.meanflow.nfes=[4]"],
    ],
)
def test_nothing_is_shared_where_no_training_serves_several(settings):
    assert not [v.name for v in planned(*settings).variants if v.shares > 1]


def test_a_name_that_is_taken_is_refused(tmp_path, monkeypatch):
    (config,) = compose(["experiment=digits", "profile=smoke"])
    config.variants["kd-split"] = config.variants["kd"]
    with pytest.raises(UserError, match="split_budget=true: enters kd again as kd-split"):
        make_plan(config)


def test_jobs_ask_for_what_the_variant_asks_for():
    plan = planned("launcher=slurm", "launcher.variants.kd.minutes=77", "aa=true")
    cluster = Cluster(plan.config.launcher)
    for name in ("kd", "kd-split"):
        assert {cluster.of(s).minutes for s in trainings(plan, name).values()} == {77}
    assert cluster.of(trainings(plan, "dmd2-split")[1]).minutes != 77


def test_rows_are_described_beside_the_elastic_student_and_can_be_made_again(tmp_path):
    from piflow_reports import page
    from piflow_reports.data import read as inputs
    from piflow_reports.format import names as words

    only = ["profile=smoke", "only=[kd,piflow-gm8,meanflow]", "protocol.extractors=[digits]"]
    ended = call("run", *only, "launcher=debug", *places(tmp_path), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / "digits-smoke"
    table = pd.read_parquet(folder / "results.parquet")
    final = table[(table["budget_fraction"] == 1) & (table["metric"] == "fd")]
    spent = final.groupby("variant")["train_tfe"].max()
    # No pairs are made at once: spending stops within a step.
    assert spent["piflow-gm8-split"] == pytest.approx(spent["meanflow"] / 2, rel=0.15)
    assert not any(
        "budget split" in t for t in json.loads((folder / "run.json").read_text())["warnings"]
    )

    context = page.section(inputs.read(folder), "").context
    groups = {g.title: g for g in context["rankings"][4][0].groups}
    beside = groups[words.TRACKS["one budget"]]
    assert {r.series for r in beside.rows} == {"kd-split", "piflow-gm8-split", "meanflow"}
    assert {r.series: r.trained for r in beside.rows} == {
        "kd-split": "4 NFE, 1/2 budget",
        "piflow-gm8-split": "4 NFE, 1/2 budget",
        "meanflow": "1 and 4 NFE",
    }
    assert not any(cell.mark for row in beside.rows for cell in row.cells)
    tested = [p for p in context["pairs"] if p["family"]]
    assert tested and all(p["track"] == "Distilled" for p in tested)
    assert not any("split" in name for name in context["looks"])
    assert "Trained for" in (folder / "report.html").read_text()

    (cell,) = [
        c for c in context["origins"][0]["cells"] if c["series"] == "kd-split" and c["nfe"] == "1"
    ]
    again = call("run", *shlex.split(cell["command"])[4:], "launcher=debug", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    made = pd.read_parquet(tmp_path / "runs" / "digits-smoke-row" / "results.parquet")
    assert cell["artifact"] in set(made["artifact"])


WHOLE = "only=[kd,dmd2,meanflow,teacher-euler]"


def test_parts_that_name_the_twins_make_what_the_whole_makes():
    whole = {stage.key for stage in planned(WHOLE).stages}
    parts = ["[teacher-euler]", "[kd,kd-split]", "[dmd2-split]", "[dmd2]", "[meanflow]"]
    made = [{stage.key for stage in planned(f"only={only}").stages} for only in parts]
    assert set.union(*made) >= {s.key for s in planned(WHOLE).stages if s.kind == "distill"}
    assert set.union(*made) == whole


def test_a_twin_is_entered_alone_as_it_is_in_the_whole():
    plan = planned("only=[kd-split]")
    assert [v.name for v in plan.variants] == ["kd-split"]
    whole = trainings(planned(WHOLE), "kd-split")
    assert {n: s.key for n, s in trainings(plan, "kd-split").items()} == {
        n: s.key for n, s in whole.items()
    }
    assert [v.name for v in planned("only=[kd]").variants] == ["kd"], "unless it is named"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["only=[meanflow-split]"], "only=meanflow-split: .* it has piflow-gm8-split, dmd2-split"),
        (["only=[kd-split]", "split_budget=false"], "only=kd-split: .* it has none"),
        (["only=[kd-split]", "nfes=[1]"], "only=kd-split: .* it has none"),
        (["only=[kdd-split]"], "only=kdd-split: no such variant"),
    ],
)
def test_twins_that_the_whole_has_not_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        planned(*settings)
