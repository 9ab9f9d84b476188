"""What closer looks found, from artifacts that are written by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from piflow_bench.contracts.condition import Prompts
from piflow_bench.pipeline.results.closer import breakdown_table, selections
from piflow_bench.pipeline.results.schema import BREAKDOWN
from tests.pipeline.results.made import cell_of, finish, plan_of
from tests.pipeline.tasks import stage_of


def test_values_by_count_and_class_are_of_their_cell(store):
    first, second = stage_of("breakdown", 1), stage_of("breakdown", 2)
    rows = [{"kind": "size", "group": "500", "metric": "fd", "value": 2.0, "n": 500},
            {"kind": "class", "group": "3", "metric": "recall", "value": 0.5, "n": 20}]  # fmt: skip
    finish(store, first, breakdown_json=rows)
    picked = stage_of("selection")
    finish(store, picked)
    cells = [
        cell_of(closer=(first, picked), nfe=4, guidance=1.5),
        cell_of(closer=(second,), variant="unfinished"),
        cell_of(variant="not looked at"),
    ]
    table = breakdown_table(plan_of(*cells), store)
    assert list(table) == BREAKDOWN.names and table["variant"].tolist() == ["kd", "kd"]
    assert table["group"].tolist() == ["500", "3"] and table["n"].tolist() == [500, 20]
    assert table["nfe"].tolist() == [4, 4] and table["guidance"].tolist() == [1.5, 1.5]
    assert list(breakdown_table(plan_of(), store)) == BREAKDOWN.names


def test_values_within_prompts_are_under_their_texts(store):
    stage = stage_of("within")
    about = {"kind": "within", "metric": "pairwise_distance", "n": 4, "replicates": [0.5, 0.7]}
    rows = [{**about, "group": str(i), "value": i / 10} for i in (1, 0)]
    finish(store, stage, within_json=rows)
    cell = cell_of(closer=(stage,))
    table = breakdown_table(plan_of(cell), store)
    assert table["group"].tolist() == ["1", "0"] and table["replicates"][0] == [0.5, 0.7]
    prompts = Prompts(torch.tensor([0, 1]), ("a dog", "a cat"))
    data = SimpleNamespace(train_condition=prompts)
    table = breakdown_table(plan_of(cell, dataset=data), store)
    assert table["group"].tolist() == ["a cat", "a dog"]


def test_selections_are_numbered_by_cell(store):
    stages = [stage_of("selection", n) for n in range(2)]
    for n, stage in enumerate(stages):
        folder = finish(store, stage, selection_json={"rows": [], "looked_at": n})
        np.savez(folder / "selection.npz", best=np.full((1, 2, 2, 1), n, np.uint8))
    cells = [cell_of(closer=(stage,), nfe=n + 1) for n, stage in enumerate(stages)]
    found = selections(plan_of(cell_of(), *cells), store)
    about = json.loads(str(found.pop("cells")))
    assert [(a["key"], a["nfe"], a["looked_at"]) for a in about] == [("0", 1, 0), ("1", 2, 1)]
    assert {name: int(x.max()) for name, x in found.items()} == {"0/best": 0, "1/best": 1}
    assert pd.isna(about[0]["guidance"]) and about[0]["role"] == "student"
    assert json.loads(str(selections(plan_of(), store)["cells"])) == []
