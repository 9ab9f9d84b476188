"""A run's folder, and what it is made from."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from piflow_bench.pipeline.launchers.schedule import Outcome
from piflow_bench.pipeline.results.run import fingerprint, write_run
from piflow_bench.pipeline.results.schema import TABLES


def test_a_folder_of_nothing_finished_is_whole(plan, store, tmp_path):
    out = tmp_path / "runs" / "mine"
    write_run(plan, store, Outcome(), out, "the command", "then")
    names = {"results.parquet", "curves.parquet", "breakdown.parquet", "grids.npz"}
    assert {p.name for p in out.iterdir()} == names | {"selections.npz", "run.json"}
    for table in TABLES:
        assert pq.read_schema(out / table.file).names == table.names
    results = pd.read_parquet(out / "results.parquet")
    assert len(results) and set(results["status"]) == {"pending"}
    with np.load(out / "grids.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["rows"])) == []


def test_a_run_that_goes_on_has_no_rows_of_what_is_to_come(plan, store, tmp_path):
    live = {"done": 0, "total": 9}
    write_run(plan, store, Outcome(), tmp_path / "a", "c", "then", pending=False, live=live)
    assert len(pd.read_parquet(tmp_path / "a" / "results.parquet")) == 0
    assert json.loads((tmp_path / "a" / "run.json").read_text())["live"] == live


def test_the_fingerprint_is_of_settings_and_of_the_reports_code(plan):
    one = fingerprint(plan, "pages")
    assert fingerprint(plan, "pages") == one != fingerprint(plan, "other pages")
    other = replace(plan, config=replace(plan.config, title="another"))
    assert fingerprint(other, "pages") != one
