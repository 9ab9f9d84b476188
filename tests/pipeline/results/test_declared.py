"""Since when a store knows a declaration, and when the first student was trained."""

from dataclasses import replace

import pytest

from piflow_bench.pipeline.results import declared
from tests.pipeline.results.made import finish


@pytest.fixture
def clock(monkeypatch):
    times = iter(f"2026-01-0{day}T00:00:00Z" for day in range(1, 9))
    monkeypatch.setattr(declared.time, "strftime", lambda *_: next(times))


def test_the_first_call_in_a_store_counts(plan, store, clock):
    assert declared.declare(store, plan) == "2026-01-01T00:00:00Z"
    assert declared.declare(store, plan) == "2026-01-01T00:00:00Z"


def test_other_comparisons_measures_or_rules_are_another_declaration(plan, store, clock):
    family = replace(plan.config.family, leader="teacher-euler")
    measure = replace(plan.config.protocol, primary_quality="kid")
    others = [
        replace(plan, config=replace(plan.config, family=family)),
        replace(plan, config=replace(plan.config, protocol=measure)),
        replace(plan, protocol_hash="other"),
    ]
    found = [declared.declare(store, each) for each in (plan, *others, plan)]
    assert found == [f"2026-01-0{day}T00:00:00Z" for day in (1, 2, 3, 4, 1)]
    more = replace(plan.config, variants={}, nfes=[2])
    assert declared.declare(store, replace(plan, config=more)) == found[0], "variants may come"


def test_a_damaged_record_counts_from_now(plan, store, clock):
    declared.declare(store, plan)
    (record,) = (store.root / declared.FOLDER).iterdir()
    record.write_text("{")
    assert declared.declare(store, plan) == "2026-01-02T00:00:00Z"


def test_the_first_training_is_of_students_that_are_there(plan, store):
    assert declared.first_training(store, plan) == ""
    trained = [s for s in plan.stages if s.kind == "distill"]
    finish(store, trained[0])
    assert declared.first_training(store, plan) == store.meta(trained[0])["started"] != ""
