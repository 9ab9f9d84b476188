"""The samples that a page shows side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.labels import captions
from piflow_bench.pipeline.plan import Plan
from piflow_bench.pipeline.results.closer import shown
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store

PICTURES, POINTS = 40, 2000
"""Samples of a cell that are shown."""


def grids(plan: Plan, store: Store) -> dict[str, np.ndarray]:
    """Samples that share noise and label by column: the converged teacher, then every variant.

    Arrays of pictures ``(n, h, w, c)`` uint8 or points ``(n, 2)`` by key; ``rows``, JSON that says
    whose each key is; ``labels`` (numbers, or the texts of prompts) and ``index`` ``(n,)`` of the
    columns.
    """
    arrays: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    dataset = plan.dataset
    assert dataset is not None
    look = dataset.space.pictures
    most = POINTS if look is None else PICTURES

    def add(key: str, shards: Sequence[Stage], about: Mapping[str, Any]) -> None:
        x = np.array(artifacts.samples([store.path(s) for s in shards], most))
        arrays[key] = x if look is None else look(torch.from_numpy(x))
        rows.append({"key": key, **about})

    if plan.grid and all(store.has(s) for s in plan.grid):
        about = {"variant": "teacher-converged", "nfe": None, "train_seed": None, "role": "control"}
        add("teacher", plan.grid, about)
    first_seed = plan.config.train_seeds[0]
    for i, cell in enumerate(plan.cells):
        c = cell.columns
        chosen = c["budget_fraction"] == 1.0 and c["train_seed"] in (None, first_seed)
        chosen &= c["role"] != "control" and c["shares"] == 1
        if cell.samples and chosen and all(store.has(s) for s in cell.samples):
            add(f"cell_{i}", cell.samples, shown(cell))
    count = max((len(a) for a in arrays.values()), default=0)
    condition = dataset.conditions(plan.config.sample_seed, range(count))
    labels = condition.pack().numpy()
    return {
        **arrays,
        "labels": np.array(captions(condition, labels if labels.ndim == 1 else [0] * count)),
        "index": np.arange(count),
        "rows": np.array(json.dumps(rows)),
    }
