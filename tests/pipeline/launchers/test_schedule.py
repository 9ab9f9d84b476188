"""Which stages are ready, and how a worker's death is told."""

import os
import signal

import pytest

from piflow_bench.pipeline.launchers.schedule import Schedule
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.tasks import stage_of


def test_scheduling_is_by_inputs_and_weight(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    light, heavy = stage_of("draw", 1, weight=1), stage_of("draw", 2, weight=5)
    child = stage_of("features", inputs={"samples": (light, heavy)}, weight=99)
    schedule = Schedule([light, heavy, child], store, lambda *_: None)
    assert schedule.ready() == [heavy, light]
    schedule.start(heavy)
    schedule.finish(heavy, ("done", "", ""))
    assert schedule.ready() == [light]
    schedule.start(light)
    schedule.finish(light, ("failed", "ValueError: no", "trace"))
    assert not schedule.waiting
    assert schedule.outcome.failures[child.key].root is light
    assert os.path.isdir(tmp_path / "artifacts")


@pytest.mark.parametrize(
    "code, log, words",
    [
        (-signal.SIGKILL, "", "died 1 times (signal 9); out of memory?"),
        (-signal.SIGSEGV, "Fatal Python error: Segmentation fault\n\nFile x", "(signal 11): Fatal"),
        (1, "Traceback\n  File x\nValueError: broken", "(exit 1): ValueError: broken"),
        (1, "", "died 1 times (exit 1)"),
    ],
)
def test_a_worker_that_died_is_named_with_its_traceback(tmp_path, code, log, words):
    stage = stage_of("draw", 1)
    schedule = Schedule([stage], Store(tmp_path), lambda *a: None)
    schedule.start(stage)
    schedule.died(stage, code, log)
    failure = schedule.outcome.failures[stage.key]
    assert words in failure.reason
    assert ("out of memory" in failure.reason) == (code == -signal.SIGKILL)
    assert failure.traceback == log
