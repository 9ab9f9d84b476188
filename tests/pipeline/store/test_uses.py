"""Which runs use which artifacts, and for how long that counts."""

import json
import os
import time
from dataclasses import replace

import pytest

from piflow_bench.config.schema import ExperimentConfig, LauncherConfig
from piflow_bench.pipeline.store.store import Store
from piflow_bench.pipeline.store.uses import (
    DAY,
    FOLDER,
    RUN,
    damaged,
    record_use,
    settings_digest,
    stages_of,
    uses,
)
from tests.pipeline.tasks import stage_of


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.mark.parametrize(
    "others, same",
    [
        ({"runs": "x", "store": "y", "name": "z"}, True),
        ({"launcher": LauncherConfig(name="slurm"), "sample_batch": 3, "save_seconds": 9.0}, True),
        ({"logger": "tensorboard"}, True),
        ({"sample_seed": 9}, False),
        ({"nfes": [2]}, False),
        ({"only": ["kd"]}, False),
    ],
)
def test_settings_of_the_call_name_no_stage(others, same):
    config = ExperimentConfig(name="digits")
    assert (settings_digest(replace(config, **others)) == settings_digest(config)) == same


def test_stages_are_those_of_the_last_call_with_the_settings(store, tmp_path, monkeypatch):
    stages = [stage_of("draw", n) for n in range(3)]
    assert stages_of(store, "a") is None
    for when, run, which in ((10.0, "x", [0]), (30.0, "y", [1]), (20.0, "z", [2])):
        monkeypatch.setattr(time, "time", lambda when=when: when)
        record_use(store, tmp_path / run, [stages[i] for i in which], "a")
    assert stages_of(store, "a") == {stages[1].name}
    assert stages_of(store, "b") is None


def test_a_record_that_cannot_be_read_is_no_use_and_is_named(store, tmp_path):
    record_use(store, tmp_path / "x", [stage_of("draw")], "a")
    (kept,) = uses(store)
    for name, text in (("cut", "{"), ("empty", "{}"), ("other", '{"artifacts": 3}')):
        (store.root / FOLDER / f"{name}.json").write_text(text)
    assert [use.record for use in uses(store)] == [kept.record]
    assert [path.stem for path in damaged(store)] == ["cut", "empty", "other"]


def test_a_run_without_results_counts_for_some_days(store, tmp_path, monkeypatch):
    record_use(store, tmp_path / "gone", [stage_of("draw")], "a")
    (use,) = uses(store)
    assert not use.is_there and use.counts(1)
    monkeypatch.setattr(time, "time", lambda: use.began + 1.5 * DAY)
    assert use.counts(2) and not use.counts(1)
    use.run.mkdir()
    assert use.is_there and use.counts(1)


def test_what_has_grown_is_one_use(store, tmp_path):
    one, two, three = (stage_of("draw", n) for n in (1, 2, 3))
    for stages, settings in (([one], "a"), ([one, two], "b"), ([two, three], "c")):
        record_use(store, tmp_path / "digits", stages, settings)
    record_use(store, tmp_path / "other", [one, two, three], "d")
    assert {use.settings for use in uses(store)} == {"b", "c", "d"}


def test_what_replaced_results_used_is_let_go_and_what_is_called_stays(store, tmp_path):
    run = tmp_path / "digits"
    run.mkdir()
    one, two = (ExperimentConfig(name="digits", sample_seed=seed) for seed in (1, 2))
    digests = [settings_digest(each) for each in (one, two)]
    assert digests[0] == settings_digest(replace(one, name="x", runs="x"))
    for digest in digests:
        record_use(store, run, [stage_of("draw", digest)], digest)
    assert [use.is_there for use in uses(store)] == [True, True]
    (run / RUN).write_text(json.dumps({"settings": digests[1]}))
    os.utime(run / RUN, (time.time() - 60,) * 2)  # The other was called after it was written.
    assert [use.is_there for use in uses(store)] == [True, True]
    os.utime(run / RUN, (time.time() + 60,) * 2)
    assert {use.settings: use.is_there for use in uses(store)} == {
        digests[0]: False,
        digests[1]: True,
    }
    assert all(use.counts(days=7) for use in uses(store))
