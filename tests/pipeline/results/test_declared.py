"""Since when a store knows a declaration, and when the first student was trained."""

from dataclasses import asdict, replace

import pytest

from piflow_bench.files.atomic import write_json
from piflow_bench.pipeline.results import declared
from piflow_bench.pipeline.store.attempts import STARTS, begin
from tests.pipeline.results.made import finish


@pytest.fixture
def clock(monkeypatch):
    seconds = iter(range(100))
    monkeypatch.setattr(declared.time, "time", lambda: next(seconds))


def at(second):
    return f"1970-01-01T00:00:{second:02}Z"


def test_the_first_call_in_a_store_counts(plan, store, clock):
    assert [declared.declare(store, plan) for _ in range(2)] == [at(0), at(0)]


def test_other_comparisons_are_another_declaration_and_a_part_of_them_is_none(plan, store, clock):
    def of(**changes):
        return replace(plan, config=replace(plan.config, **changes))

    kd = plan.config.variants["kd"]
    others = [
        of(family=replace(plan.config.family, leader="teacher-euler")),
        of(protocol=replace(plan.config.protocol, primary_quality="kid")),
        replace(plan, protocol_hash="other"),
        of(nfes=[2]),
        of(variants={"kd": kd}),
        of(variants={**plan.config.variants, "kd": replace(kd, settings={"lr": 0.5})}),
        of(variants={**plan.config.variants, "kd": replace(kd, settings_at={4: {"lr": 0.5}})}),
    ]
    found = [declared.declare(store, each) for each in (plan, *others, plan)]
    assert found == [at(second) for second in (*range(8), 0)]
    parts = [of(only=["kd"]), of(title="another"), of(train_seeds=[1, 2])]
    assert {declared.declare(store, part) for part in parts} == {at(0)}


def test_a_damaged_record_counts_from_now(plan, store, clock):
    declared.declare(store, plan)
    (record,) = (store.root / declared.FOLDER).iterdir()
    record.write_text("{")
    assert declared.declare(store, plan) == at(1)


def test_the_first_training_is_the_first_begun_finished_or_not(plan, store):
    assert declared.first_training(store, plan) == ""
    (training,) = [s for s in plan.stages if s.kind == "distill"]
    store.work(training).mkdir(parents=True)
    begin(store.work(training))
    (start,) = store.starts(training)
    write_json(store.work(training) / STARTS, [asdict(start) | {"time": t} for t in (40, 30)])
    assert declared.first_training(store, plan) == at(30), "what was killed may have been watched"
    finish(store, training, meta={"starts": [asdict(start) | {"time": t} for t in (20, 30)]})
    assert declared.first_training(store, plan) == at(20)


def test_of_published_weights_nobody_knows(plan, store, monkeypatch):
    monkeypatch.setattr(declared, "Publish", type(plan.stages[0].task))
    assert declared.first_training(store, plan) is None
