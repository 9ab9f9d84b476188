"""Which trainings are drawn for TensorBoard, where, and whether it can be."""

from pathlib import Path

import pytest

from piflow_bench.errors import UserError
from piflow_bench.pipeline import loggers
from piflow_bench.pipeline.loggers import check_logger, complete, folders_of
from piflow_bench.pipeline.store.store import Store
from tests.pipeline.tasks import stage_of


def training(variant, seed, nfe, n=1):
    about = {"variant": variant, "train_seed": seed, "train_nfe": nfe}
    return stage_of("distill", n, about=about, method="kd")


def test_a_folder_is_named_by_variant_seed_and_nfe_and_lies_in_the_runs(tmp_path):
    one, elastic = training("kd", 0, 4, 1), training("meanflow", 2, None, 2)
    found = folders_of([one, elastic, stage_of("sample", method="kd")], tmp_path / "run")
    assert found == {
        one.name: str(tmp_path / "run" / "tensorboard" / "kd-seed0-4nfe"),
        elastic.name: str(tmp_path / "run" / "tensorboard" / "meanflow-seed2"),
    }


def test_what_was_trained_before_is_drawn_from_its_log_and_the_rest_is_not(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    store.prepare()
    done, missing = training("kd", 0, 4, 1), training("kd", 0, 1, 2)
    other = stage_of("draw")
    for stage in (done, other):
        store.work(stage).mkdir()
        store.commit(stage, {})
    drawn = []
    monkeypatch.setattr(loggers, "convert", lambda log, folder: drawn.append((log, folder)))
    complete(iter([done, missing, other]), store, tmp_path / "run")
    folder = Path(tmp_path / "run" / "tensorboard" / "kd-seed0-4nfe")
    assert drawn == [(store.path(done) / "log.jsonl", folder)]


def test_a_logger_without_its_package_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    check_logger(None)
    with pytest.raises(UserError, match="^logger=tensorboard: needs TensorBoard: pip install"):
        check_logger("tensorboard")
    monkeypatch.setattr(loggers, "find_spec", lambda name: object())
    check_logger("tensorboard")
