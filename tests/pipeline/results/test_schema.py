"""The schema itself: whole, light, and read under its own names."""

import subprocess
import sys
from dataclasses import fields

import pytest

from piflow_bench.evaluation.inference import cells
from piflow_bench.pipeline.artifacts import Score
from piflow_bench.pipeline.results import schema
from piflow_bench.pipeline.results.schema import RESULTS, TABLES, Status

TYPES = {"text", "list of float64", "boolean", "int64", "Int64", "float64"}


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.file)
def test_every_column_is_described_once(table):
    assert len(set(table.names)) == len(table.names)
    assert set(table.required) <= set(table.names)
    for column in table.columns:
        assert column.dtype in TYPES and column.meaning
        assert not column.meaning.endswith(".") and "|" not in column.meaning + column.unit
        assert not column.choices or column.default in (None, *column.choices)
        if column.dtype == "int64" and column.name not in table.required:
            assert column.default is not None, "it cannot be null"


def test_what_two_runs_may_differ_in():
    """Times, memory, and who made it where; never a value or what decides one."""
    assert set(schema.COST_AND_PROVENANCE) == {
        "run", "train_seconds", "sample_seconds", "policy_seconds", "train_memory",
        "sample_memory", "git_commit", "versions", "hardware", "node", "train_hardware",
        "sample_hardware", "start", "duration",
    }  # fmt: skip


def test_others_name_columns_of_the_schema():
    names = set(RESULTS.names)
    assert set(schema.ORDER) <= names
    assert {f.name for f in fields(Score)} <= names
    assert {*cells.CELL, *cells.MEASURE, *cells.USED} - {"series", "setting"} <= names
    assert cells.OK == Status.OK


def test_the_schema_is_light():
    heavy = "{'numpy', 'pandas', 'pyarrow', 'torch'} & set(sys.modules)"
    code = f"import sys; import {schema.__name__}; sys.exit(str({heavy}) if {heavy} else 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_status_is_its_word():
    assert [str(s) for s in Status] == ["ok", "failed", "pending"] and Status.OK == "ok"
