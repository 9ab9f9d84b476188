"""What the store remembers of a stage's jobs."""

import pytest

from piflow_bench.pipeline.launchers.slurm.records import (
    FOLDER,
    last_lines,
    outcome_of,
    record_named,
    record_of,
    write_outcome,
    write_record,
)
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.tasks import stage_of


@pytest.fixture
def store(tmp_path):
    (tmp_path / FOLDER).mkdir()
    return Store(tmp_path)


def test_the_last_job_is_remembered_and_how_many_there_were(store):
    stage = stage_of("draw", label="mine")
    assert record_of(store, stage) is None
    for n in (1, 2):
        write_record(store, stage, f"{n}_0", store.root / "log")
        assert record_of(store, stage) == {
            "job": f"{n}_0", "log": str(store.root / "log"), "attempts": n, "label": "mine",
        }  # fmt: skip
    assert record_named(store, stage.name) == record_of(store, stage)
    assert record_of(store, stage_of("draw", 2)) is None


def test_a_new_job_forgets_how_the_one_before_it_ended(store):
    stage = stage_of("draw")
    write_outcome(store, stage, "failed", "why", "Traceback")
    assert outcome_of(store, stage) == {
        "status": "failed", "reason": "why", "traceback": "Traceback",
    }  # fmt: skip
    write_record(store, stage, "7", store.root / "log")
    assert outcome_of(store, stage) is None


def test_a_damaged_record_is_none(store):
    stage = stage_of("draw")
    (store.root / FOLDER / f"{stage.name}.json").write_text('{"job"')
    assert record_of(store, stage) is None
    write_record(store, stage, "7", store.root / "log")
    assert record_of(store, stage)["attempts"] == 1


def test_the_last_lines_of_a_log_are_the_stages(tmp_path):
    log = tmp_path / "log"
    assert list(last_lines(str(log))) == []
    lines = [*(f"line {n}" for n in range(7)), "", "submitit ERROR", "  ", "the \udcff end"]
    log.write_text("\n".join(lines), errors="surrogateescape")
    found = list(last_lines(str(log)))
    assert found[:4] == ["line 3", "line 4", "line 5", "line 6"]
    assert len(found) == 5 and found[-1].startswith("the ")
