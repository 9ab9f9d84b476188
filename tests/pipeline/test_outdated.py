"""Artifacts of another source of an installed method: found, named, and removed when asked."""

import json
from types import SimpleNamespace

import pytest

from piflow_bench.pipeline.outdated import discard_outdated, outdated, warnings_of
from piflow_bench.pipeline.plan import Cell
from piflow_bench.pipeline.stage import closure
from piflow_bench.pipeline.store.attempts import begin
from piflow_bench.pipeline.store.store import META, Store
from tests.pipeline.tasks import stage_of


class Made:
    """A student's training, samples and features, and a control that has no source."""

    def __init__(self):
        self.teacher = stage_of("teacher")
        self.distill = stage_of("distill", inputs={"teacher": (self.teacher,)}, method="kd")
        self.sample = stage_of("sample", inputs={"teacher": (self.teacher,)}, method="kd")
        self.features = stage_of("features", inputs={"samples": (self.sample,)})
        self.real = stage_of("draw")
        about = {"variant": "mine"}
        cells = [
            Cell(about, (self.features,), (self.sample,), self.distill),
            Cell({"variant": "memoriser"}, (), (self.real,)),
        ]
        config = SimpleNamespace(method="kd")
        self.plan = SimpleNamespace(
            variants=[SimpleNamespace(name="mine", source="now", config=config)],
            cells=cells,
            stages=closure([self.distill, self.features, self.real]),
        )


@pytest.fixture
def made(tmp_path):
    found = Made()
    found.store = Store(tmp_path)
    found.store.prepare()
    for stage in found.plan.stages:
        work = found.store.work(stage)
        work.mkdir()
        begin(work, "now" if stage in (found.distill, found.sample) else "")
        found.store.commit(stage, {})
    return found


def begun_with(made, stage, source):
    record = made.store.path(stage) / META
    content = json.loads(record.read_text())
    content["starts"][-1]["source"] = source
    record.write_text(json.dumps(content))


def test_nothing_is_outdated_while_the_source_is_the_same(made):
    assert outdated(made.plan, made.store) == {} and warnings_of(made.plan, made.store) == []
    discard_outdated(made.plan, made.store)
    assert all(made.store.has(stage) for stage in made.plan.stages)


def test_what_another_source_made_is_named_with_what_to_do(made):
    begun_with(made, made.sample, "then")
    assert outdated(made.plan, made.store) == {"mine": [made.sample]}
    begun_with(made, made.distill, "then")
    assert warnings_of(made.plan, made.store) == [
        "mine: 2 artifacts in the store were made by another source of method 'kd' than is "
        "installed now; raise its Facts.version, or make them anew with run --force"
    ]


def test_what_no_method_made_has_no_source(made):
    begun_with(made, made.real, "then")
    begun_with(made, made.features, "then")
    assert outdated(made.plan, made.store) == {}


def test_it_is_removed_with_all_that_was_made_from_it(made):
    begun_with(made, made.sample, "then")
    discard_outdated(made.plan, made.store)
    left = [stage.kind for stage in made.plan.stages if made.store.has(stage)]
    assert left == ["teacher", "distill", "draw"]
    discard_outdated(made.plan, made.store)
    assert [stage.kind for stage in made.plan.stages if made.store.has(stage)] == left
