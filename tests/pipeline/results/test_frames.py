"""Frames of the schema: nothing else is written, and older files are read."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from piflow_bench.pipeline.results.frames import STORED, framed, save, typed
from piflow_bench.pipeline.results.schema import (
    BREAKDOWN,
    CURVES,
    RESULTS,
    TABLES,
    Column,
    Status,
    Table,
)

SMALL = Table(
    "small.parquet",
    "a row",
    (
        Column("name", "text", "a name"),
        Column("count", "int64", "a number", default=7),
        Column("seed", "Int64", "a number or none"),
        Column("value", "float64", "a number"),
        Column("better", "boolean", "a direction"),
        Column("parts", "list of float64", "numbers"),
        Column("state", "text", "a word", default=Status.OK, choices=tuple(Status)),
    ),
    required=("name",),
)
ROW = {
    "name": "a", "count": 2, "seed": None, "value": 0.5, "better": None, "parts": [1, 2.5],
    "state": Status.FAILED,
}  # fmt: skip
DTYPES = {
    "count": "int64", "seed": "Int64", "value": "float64", "better": "boolean", "parts": "object",
}  # fmt: skip


def test_rows_become_the_tables_columns_in_order_and_type():
    other = {"seed": 3, "better": True, "state": "ok", "name": "b", "count": np.int64(0)}
    other |= {"value": float("nan"), "parts": []}
    frame = framed([ROW, other], SMALL)
    assert list(frame) == SMALL.names
    assert {name: str(frame[name].dtype) for name in DTYPES} == DTYPES
    assert frame["name"].tolist() == ["a", "b"] and frame["state"].tolist() == ["failed", "ok"]
    assert frame["seed"].tolist() == [pd.NA, 3] and frame["better"].tolist() == [pd.NA, True]
    assert frame["parts"].tolist() == [[1.0, 2.5], []]
    assert {type(v) for v in frame["state"]} == {str}


def test_a_column_that_is_not_in_the_schema_is_an_error():
    with pytest.raises(ValueError, match=r"small.parquet: a row has extra, not as its schema"):
        framed([ROW, {**ROW, "extra": 1}], SMALL)


def test_a_column_that_is_lacking_is_an_error():
    with pytest.raises(ValueError, match=r"small.parquet: a row lacks seed, has sed"):
        framed([{("sed" if k == "seed" else k): v for k, v in ROW.items()}], SMALL)
    with pytest.raises(ValueError, match=r"small.parquet: a row lacks seed, not as its schema"):
        framed([{k: v for k, v in ROW.items() if k != "seed"}], SMALL)


@pytest.mark.parametrize(
    "name, value",
    [
        ("name", None), ("name", 3), ("name", float("nan")),
        ("count", None), ("count", 1.5), ("count", "1"),
        ("seed", 1.5), ("seed", "1"),
        ("value", "0.5"), ("value", [1.0]),
        ("better", "yes"), ("better", 0.5),
        ("parts", 1.0), ("parts", "ab"), ("parts", [None]),
        ("state", "done"),
    ],
)  # fmt: skip
def test_a_value_that_its_column_cannot_hold_is_an_error(name, value):
    with pytest.raises(ValueError, match=rf"^small.parquet: {name} "):
        framed([ROW, {**ROW, name: value}], SMALL)


def test_other_numbers_are_held_where_the_table_has_more():
    row = {"variant": "kd", "base": "kd", "train_seed": 0, "train_nfe": None, "step": 1,
           "tfe": 3.0, "images": 64, "seconds": 0.1}  # fmt: skip
    frame = framed([{**row, "loss": 2}, {**row, "grad_norm": 0.5}], CURVES)
    assert list(frame) == [*CURVES.names, "loss", "grad_norm"]
    assert (frame["loss"].dtype, frame["loss"].isna().tolist()) == (np.float64, [False, True])
    with pytest.raises(ValueError, match="curves.parquet: loss holds float64, not str"):
        framed([{**row, "loss": "much"}], CURVES)


@pytest.mark.parametrize("table", [*TABLES, SMALL], ids=lambda t: t.file)
def test_a_file_without_rows_has_its_columns_and_types(table, tmp_path):
    save(tmp_path / "x", framed([], table), table)
    stored = pq.read_schema(tmp_path / "x")
    assert stored.names == table.names
    assert list(stored.types) == [STORED[column.dtype] for column in table.columns]
    assert len(typed(pd.read_parquet(tmp_path / "x"), table)) == 0


def test_what_is_saved_is_read_again(tmp_path):
    rows = [ROW, {**ROW, "seed": 3, "better": False, "value": float("nan"), "parts": []}]
    frame = framed(rows, SMALL)
    save(tmp_path / "x", frame, SMALL)
    again = pd.read_parquet(tmp_path / "x")
    assert again.drop(columns="parts").equals(frame.drop(columns="parts"))
    assert [list(v) for v in again["parts"]] == frame["parts"].tolist()


def test_read_values_are_plain():
    found = typed(framed([ROW, {**ROW, "seed": 3, "better": True}], SMALL), SMALL)
    assert found["seed"].dtype == float and math.isnan(found["seed"][0]) and found["seed"][1] == 3
    assert found["count"].dtype == float
    assert found["better"].tolist() == [None, True] and found["parts"][0] == [1.0, 2.5]
    assert typed(found, SMALL).equals(found), "what is read may be read again"
    (mixed,) = typed(pd.DataFrame({"name": ["a"], "better": [1.0]}), SMALL)["better"]
    assert mixed is True


def test_an_older_file_is_read_with_defaults():
    parts = [None, np.array([1.0])]
    values = {"name": ["a", None], "value": ["0.5", "much"], "state": ["", "failed"]}
    old = pd.DataFrame({**values, "parts": parts, "gone": [1, 2]}, index=[4, 9])
    found = typed(old, SMALL)
    assert list(found) == [*SMALL.names, "gone"] and found.index.tolist() == [4, 9]
    assert found["name"].tolist() == ["a", ""] and found["state"].tolist() == ["ok", "failed"]
    assert found["count"].tolist() == [7, 7] and found["seed"].isna().all()
    assert found["value"][4] == 0.5 and math.isnan(found["value"][9])
    assert found["better"].tolist() == [None, None] and found["parts"].tolist() == [[], [1.0]]


def test_a_file_that_lacks_what_is_required_is_refused():
    with pytest.raises(ValueError, match="^small.parquet has no column name$"):
        typed(pd.DataFrame({"value": [1.0]}), SMALL)
    with pytest.raises(ValueError, match="no column metric and no column value"):
        typed(pd.DataFrame({"variant": ["a"]}), RESULTS)


def test_defaults_of_results_are_those_of_a_student_at_its_end():
    found = typed(pd.DataFrame({"variant": ["a"], "metric": ["fd"], "value": [1.0]}), RESULTS)
    (row,) = found.to_dict("records")
    assert (row["role"], row["track"], row["status"]) == ("student", "none", "ok")
    assert (row["shares"], row["budget_fraction"]) == (1, 1) and math.isnan(row["train_tfe"])
    assert json.loads(row["rules"]) == json.loads(row["versions"]) == {} and row["reason"] == ""
    assert typed(pd.DataFrame({"kind": ["size"]}), BREAKDOWN)["role"].tolist() == ["student"]
