"""Published numbers of the shipped experiments: each with its source, told from ours."""

import re
from importlib.resources import files

import pytest
import yaml

from piflow_bench.config.compose import compose
from piflow_bench.laws import LAWS

FILES = sorted(
    p.name for p in files("piflow_experiments.published").iterdir() if p.name.endswith(".yaml")
)


def rows(name):
    text = (files("piflow_experiments.published") / name).read_text("utf-8")
    return yaml.safe_load(text)["references"]


@pytest.mark.parametrize("name", FILES)
def test_every_row_says_what_where_from_and_what_differs(name):
    seen = set()
    for row in rows(name):
        assert row.keys() <= {"method", "nfe", "metric", "value", "source", "labels", "note"}
        assert row["source"] and row["note"] and isinstance(row["nfe"], int), row
        assert re.fullmatch(r"\d+(\.\d+)?( to \d+(\.\d+)?)?", str(row["value"])), row
        assert row.get("labels", "uniform") in (*LAWS, "of validation images"), row
        seen.add((row["method"], row["nfe"]))
    assert len(seen) == len(rows(name)), "no row stands twice"


@pytest.mark.parametrize(
    "experiment, nfe",
    [("imagenet_1nfe_repa", 1), ("imagenet_1nfe_fm", 1), ("imagenet_2nfe", 2)],
)
def test_an_experiment_has_those_of_its_evaluations(experiment, nfe):
    (config,) = compose([f"experiment={experiment}"])
    names = {row["method"] for row in config.references if row["nfe"] == nfe}
    assert len(names) > 10 and any("pi-Flow" in name for name in names)
