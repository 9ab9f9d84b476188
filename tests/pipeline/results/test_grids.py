"""Samples side by side, from artifacts that are written by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from piflow_bench.contracts.condition import Classes
from piflow_bench.pipeline.results.grids import PICTURES, POINTS, grids
from tests.pipeline.results.made import cell_of, finish, plan_of
from tests.pipeline.tasks import stage_of


def looked(x):
    """Pictures of values from 0 to 255."""
    return x.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def labelled(seed, indices):
    return Classes(torch.tensor([(seed + i) % 10 for i in indices]), 10)


DATA = SimpleNamespace(space=SimpleNamespace(pictures=looked), conditions=labelled)
FLAT = SimpleNamespace(space=SimpleNamespace(pictures=None), conditions=labelled)


def shards(store, first, value, n=30, count=2, shape=(1, 2, 2)):
    """``count`` shards of ``n`` samples that are all ``value``."""
    stages = tuple(stage_of("sample", first + i) for i in range(count))
    for stage in stages:
        x = np.full((n, *shape), value, np.float32)
        np.save(finish(store, stage) / "samples.npy", x)
    return stages


def rows_of(found):
    return json.loads(str(found["rows"]))


def test_the_teacher_stands_first_and_all_share_columns(store):
    plan = plan_of(
        cell_of(samples=shards(store, 10, 7.0), nfe=4),
        cell_of(samples=shards(store, 20, 9.0), variant="dmd2", train_seed=None),
        dataset=DATA,
        grid=shards(store, 0, 200.0),
    )
    found = grids(plan, store)
    assert [r["key"] for r in rows_of(found)] == ["teacher", "cell_0", "cell_1"]
    assert [r["variant"] for r in rows_of(found)] == ["teacher-converged", "kd", "dmd2"]
    for key, value in {"teacher": 200, "cell_0": 7, "cell_1": 9}.items():
        assert found[key].shape == (PICTURES, 2, 2, 1) and found[key].dtype == np.uint8
        assert (found[key] == value).all()
    assert found["index"].tolist() == list(range(PICTURES))
    assert found["labels"].tolist() == [(3 + i) % 10 for i in range(PICTURES)]


@pytest.mark.parametrize(
    "columns",
    [{"budget_fraction": 0.5}, {"train_seed": 1}, {"role": "control"}, {"shares": 2}],
    ids=str,
)
def test_one_row_a_variant_is_shown(columns, store):
    """At the end of the budget, of the first seed; no control, no budget that is split."""
    plan = plan_of(cell_of(samples=shards(store, 1, 7.0), **columns), dataset=DATA)
    found = grids(plan, store)
    assert rows_of(found) == [] and len(found["index"]) == 0


def test_what_is_not_finished_is_not_shown(store):
    half = (*shards(store, 1, 7.0, count=1), stage_of("sample", 99))
    plan = plan_of(cell_of(samples=half), dataset=DATA, grid=half)
    assert rows_of(grids(plan, store)) == []


def test_points_are_shown_as_they_are(store):
    samples = shards(store, 1, -1.5, n=1500, shape=(2,))
    found = grids(plan_of(cell_of(samples=samples), dataset=FLAT), store)
    assert found["cell_0"].shape == (POINTS, 2) and (found["cell_0"] == -1.5).all()
