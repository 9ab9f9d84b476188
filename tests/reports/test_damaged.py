"""Damaged and incomplete runs: a page of what can be shown, or one line that says why not."""

import json

import numpy as np
import pandas as pd
import piflow_reports
import pytest

from piflow_bench.errors import UserError
from tests.reports import synthetic


@pytest.fixture
def folder(tmp_path):
    return synthetic.write(tmp_path, 1, failed=False)


def change(folder, name, with_):
    table = pd.read_parquet(folder / name)
    with_(table).to_parquet(folder / name)


def put(**values):
    """The first student row of every kind, or of all results, gets these values."""

    def with_(table):
        table = table.copy()
        keys = "kind" if "kind" in table else "role"
        first = table[table["role"] == "student"].groupby(keys).head(1).index
        for name, value in values.items():
            table[name] = table[name].astype(object)
            table.loc[first, name] = value
        return table.infer_objects()

    return with_


@pytest.mark.parametrize("with_", [
    put(value=np.nan), put(value=np.inf), put(n=0), put(n=np.nan),
    lambda t: t.drop(columns=["sampler", "guidance"]), lambda t: t.drop(columns="n"),
    lambda t: t.drop(columns=["kind", "metric"]),
])  # fmt: skip
def test_values_by_class_and_size(folder, with_):
    change(folder, "breakdown.parquet", with_)
    assert "Rankings" in piflow_reports.build(folder).read_text("utf-8")


@pytest.mark.parametrize("values", [
    {"train_seconds": np.inf}, {"budget_tfe": np.inf}, {"train_images": np.nan},
    {"train_rows": '{"student/grad": NaN, "teacher/forward": 3.0}'}, {"sample_memory": -np.inf},
    {"value": np.inf}, {"n": 0}, {"ci_low": -np.inf},
])  # fmt: skip
def test_costs_and_values_that_are_no_numbers(folder, values):
    change(folder, "results.parquet", put(**values))
    assert "Rankings" in piflow_reports.build(folder).read_text("utf-8")


def broken_zip(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "damage"), [
    ("results.parquet", lambda p: pd.DataFrame({"a": [1, 2]}).to_parquet(p)),
    ("results.parquet", lambda p: p.write_bytes(b"PAR1")),
    ("breakdown.parquet", lambda p: p.write_bytes(b"")),
    ("grids.npz", lambda p: p.write_bytes(b"")),
    ("grids.npz", broken_zip),
    ("selections.npz", lambda p: p.write_bytes(b"")),
    ("run.json", lambda p: p.write_text("[]")),
    ("run.json", lambda p: p.write_text("null")),
    ("run.json", lambda p: p.write_text(json.dumps({"variants": ["a"]}))),
    ("run.json", lambda p: p.write_text("{")),
])  # fmt: skip
def test_damaged_files_are_refused_in_one_line(folder, name, damage):
    damage(folder / name)
    with pytest.raises(UserError) as error:
        piflow_reports.build(folder)
    text = str(error.value)
    assert text.startswith(f"{folder}: cannot be read as a run (") and "\n" not in text
    assert not (folder / "report.html").exists()


def test_controls_alone_have_a_ranking(folder):
    change(folder, "results.parquet", lambda t: t[t["role"] == "control"])
    text = piflow_reports.build(folder).read_text("utf-8")
    assert text.count('<tr data-name="memoriser') > 1
