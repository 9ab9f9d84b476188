"""What run.json holds."""

import json
from dataclasses import replace

import yaml

from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.pipeline.launchers.schedule import Failure, Outcome
from piflow_bench.pipeline.results.facts import LOG_LINES, run_facts
from piflow_bench.pipeline.stage import Stage


def facts(plan, store, outcome=None):
    return run_facts(plan, store, outcome or Outcome(seconds=1.26), "the command", "then")


def test_facts_say_what_was_asked_and_how(plan, store):
    found = json.loads(json.dumps(facts(plan, store)))
    assert (found["name"], found["experiment"]) == ("digits-smoke", "digits")
    assert (found["command"], found["protocol"]) == ("the command", plan.protocol_hash)
    assert found["primary"]["quality"] == plan.config.protocol.primary_quality
    assert [v["name"] for v in found["variants"]] == ["kd", "teacher-euler"]
    kd = found["variants"][0]
    assert kd["track"] == "distilled" and kd["settings"] and kd["budget"]["checkpoints"]
    assert yaml.safe_load(found["config"])["nfes"] == [1]
    assert found["provenance"]["seconds"] == 1.3 and found["provenance"]["started"] == "then"
    assert found["failures"] == [] and "live" not in found


def test_versions_of_metrics_and_weights_that_measured_are_said(plan, store):
    found = facts(plan, store)["measures"]
    assert found["version of fd"] == all_metrics()["fd"].key
    named = {name for s in plan.stages for name in s.task.content.get("versions", {})}
    assert set(found) == {f"version of {name}" for name in named}
    (scored,) = [s for s in plan.stages if s.kind == "scores"][:1]
    seen = Stage(replace(scored.task, lpips="abc"), scored.inputs)
    (cell,) = [c for c in plan.cells if scored in c.results][:1]
    looked = replace(plan, cells=[replace(cell, results=(seen,))])
    assert facts(looked, store)["measures"]["weights of LPIPS"] == "abc"


def test_a_failure_is_told_once_where_it_began(plan, store):
    training = next(s for s in plan.stages if s.kind == "distill")
    below = next(s for s in plan.stages if training in s.parents())
    lines = "\n".join(f"line {i}" for i in range(9))
    outcome = Outcome(failures={
        training.key: Failure(training, "boom", lines),
        below.key: Failure(below, "needs it: boom", root=training),
    })  # fmt: skip
    (found,) = facts(plan, store, outcome)["failures"]
    assert (found["variant"], found["reason"]) == ("kd", "boom")
    assert found["log"] == [f"line {i}" for i in range(9 - LOG_LINES, 9)]
