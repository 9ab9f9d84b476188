"""The plan of an experiment: its graph, its rules, and who looks at this machine."""

from dataclasses import replace

import pytest

from piflow_bench.config.compose import compose
from piflow_bench.config.schema import LauncherConfig
from piflow_bench.errors import UserError
from piflow_bench.pipeline.plan import make, make_plan
from piflow_bench.pipeline.plan.make import rules_of
from tests.pipeline.plan import made

(SMALL,) = compose(["profile=smoke", "only=[kd,teacher-euler]", "nfes=[1]"])


@pytest.fixture(scope="module")
def plan():
    return make_plan(SMALL, look=False)


def test_stages_come_inputs_first_and_each_once(plan):
    made_before = set()
    for stage in plan.stages:
        assert {p.key for p in stage.parents()} <= made_before and stage.key not in made_before
        made_before.add(stage.key)
    assert plan.stages[0] is plan.check
    for cell in plan.cells:
        assert {s.key for s in (*cell.results, *cell.closer, *cell.samples)} <= made_before


def test_variants_come_before_controls(plan):
    names = list(dict.fromkeys(c.columns["variant"] for c in plan.cells))
    assert names == ["kd", "teacher-euler", "teacher-converged", "memoriser", "real-vs-real"]
    assert {s.task.seed for s in plan.grid} == {plan.config.sample_seed}


def test_rules_are_what_decides_numbers(plan):
    world = made.world()
    rules = rules_of(world)
    assert rules["converged"] == ["unipc", 16] and rules["label_law"] == "balanced"
    assert {"dataset", "space", "teacher", "extractors", "judge", "precision", "k"} <= set(rules)
    assert not {"metrics", "questions", "primary_quality"} & set(rules)
    world.config.converged.shift = 0.5
    assert rules_of(world)["converged"] == ["unipc", 16, 0.5]
    unstated = made.world(data=replace(made.dataset(), label_law=None))
    assert rules_of(unstated)["label_law"] == "not stated"
    assert len(plan.protocol_hash) == 12 and plan.rules["reference_seed"] == 1_000_003


def test_machine_and_logger_are_of_who_looks_and_slurms_trainings_run_elsewhere(monkeypatch):
    asked = []
    monkeypatch.setattr(make, "check_machine", lambda *a: asked.append("machine"))
    monkeypatch.setattr(make, "check_logger", lambda *a: asked.append("logger"))
    monkeypatch.setattr(make, "check_backbones", lambda *a: asked.append("backbones"))
    for look, launcher, expected in (
        (False, "local", []),
        (True, "local", ["logger", "machine", "backbones"]),
        (True, "slurm", ["logger", "backbones"]),
    ):
        asked.clear()
        make_plan(replace(SMALL, launcher=LauncherConfig(name=launcher)), look)
        assert asked == expected


def test_resources_of_a_variant_that_there_is_not_are_refused():
    launcher = LauncherConfig(variants={"kdd": {"minutes": 5}})
    with pytest.raises(
        UserError, match="launcher.variants.kdd: no such variant; did you mean 'kd'"
    ):
        make_plan(replace(SMALL, launcher=launcher), look=False)
