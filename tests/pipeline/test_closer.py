"""A closer look at a run's samples, several ways of sampling, and the command of every row."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from piflow_reports.data import read as inputs
from piflow_reports.data import series as frames
from piflow_reports.sections import remake as every

from piflow_bench.config.compose import compose
from piflow_bench.evaluation.selection import nearest
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.results.frames import STORED
from piflow_bench.pipeline.results.schema import TABLES
from piflow_bench.pipeline.runner import store_of
from piflow_bench.pipeline.runtime import Runtime
from tests.pipeline.harness import call, places, results

SETTINGS = (
    *("experiment=digits", "profile=smoke", "only=[piflow-gm8,teacher-euler]", "nfes=[1,4]"),
    *("aa=true", "protocol.samples=300", "protocol.reference_samples=400"),
    "variants.piflow-gm8.sampling.temperature=[0.3,1.0]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("closer")
    result = call("run", *SETTINGS, "launcher=debug", *places(folder), cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "temperature=0.3" in result.stdout
    return folder


@pytest.fixture(scope="module")
def plan(folder):
    (config,) = compose([*SETTINGS, *places(folder)])
    return make_plan(config)


def test_several_ways_of_sampling_share_one_training(plan, folder):
    cells = [c for c in plan.cells if c.columns["variant"] == "piflow-gm8"]
    final = [c for c in cells if c.columns["budget_fraction"] == 1 and c.columns["nfe"] == 4]
    assert {c.columns["sampler"] for c in final} == {"temperature=0.3", "temperature=1.0"}
    assert len({c.distill.key for c in final}) == 1
    assert len({c.samples[0].key for c in final}) == 2
    table = frames.with_series(inputs.normalise(results(folder)))
    at4 = table[(table.variant == "piflow-gm8") & (table.nfe == 4) & (table.budget_fraction == 1)]
    values = at4[(at4.metric == "fd") & (at4.question == "imitation")].groupby("series").value
    assert values.count().index.tolist() == [
        "piflow-gm8 · temperature=0.3",
        "piflow-gm8 · temperature=1.0",
    ]
    assert values.first().nunique() == 2


def test_costs_of_memory_and_policy_are_measured(folder):
    table = results(folder)
    students = table[table.role == "student"]
    for name in ("policy_seconds", "sample_memory", "train_memory"):
        assert (students[name] >= 0).all(), name
    assert (students.policy_seconds < students.sample_seconds).all()
    assert table[table.role == "teacher"].train_memory.isna().all()


def test_values_by_size_and_class(folder):
    table = pd.read_parquet(folder / "runs" / "digits-smoke" / "breakdown.parquet")
    whole = results(folder)
    sizes = table[(table.kind == "size") & (table.metric == "fd")]
    for (variant, nfe, sampler), own in sizes.groupby(["variant", "nfe", "sampler"]):
        assert own.n.is_monotonic_increasing and own.n.iloc[-1] == 300
        same = whole[(whole.variant == variant) & (whole.nfe == nfe) & (whole.metric == "fd")]
        same = same[(same.sampler == sampler) & (same.question == "imitation")]
        same = same[(same.extractor == "digits") & (same.budget_fraction == 1)]
        # All samples: the metric itself, whatever their order.
        assert own.value.iloc[-1] == pytest.approx(same.value.iloc[0], rel=1e-9)
    classes = table[table.kind == "class"]
    assert set(classes.group) == set("0123456789")
    assert set(classes.metric) == {"fd", "recall"} and (classes.n == 30).all()
    assert classes[classes.metric == "recall"].value.between(0, 1).all()


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.file)
def test_a_run_writes_what_the_schema_says(table, folder):
    path = folder / "runs" / "digits-smoke" / table.file
    stored = pq.read_schema(path)
    assert stored.names[: len(table.names)] == table.names
    assert len(stored.names) == len(table.names) or table.more
    types = [STORED[column.dtype] for column in table.columns]
    assert stored.types == types + [STORED["float64"]] * (len(stored.names) - len(types))
    frame = pd.read_parquet(path)
    assert len(frame)
    for column in table.columns:
        held = frame[column.name]
        if column.dtype in ("int64", "Int64", "float64", "boolean"):
            assert str(held.dtype) == column.dtype, column.name
        assert not column.choices or set(held) <= set(column.choices)


def test_selected_samples_are_those_of_the_rule(plan, folder):
    with np.load(folder / "runs" / "digits-smoke" / "selections.npz", allow_pickle=False) as data:
        cells = json.loads(str(data["cells"]))
        arrays = {name: data[name] for name in data.files}
    (config,) = compose([*SETTINGS, *places(folder)])
    store = store_of(config)
    cell = next(
        c for c in plan.cells if c.columns["variant"] == "piflow-gm8" and c.closer
        and c.columns["nfe"] == 4 and c.columns["sampler"] == "temperature=0.3"
    )  # fmt: skip
    (stage,) = (s for s in cell.closer if s.kind == "selection")

    def load(name, file):
        return np.concatenate(
            [np.load(store.path(s) / file, allow_pickle=False) for s in stage.inputs[name]]
        )

    def features(name):
        return np.concatenate(
            [np.load(store.path(s) / "features.npz")["digits"] for s in stage.inputs[name]]
        )

    x, train = load("samples", "samples.npy"), load("train", "samples.npy")
    found = next(
        c for c in cells if c["variant"] == "piflow-gm8" and c["nfe"] == 4
        and c["sampler"] == "temperature=0.3"
    )  # fmt: skip
    rows = {row["rule"]: row for row in found["rows"]}
    assert set(rows) == {"best", "worst", "teacher", "training"}
    gap, _ = nearest(features("features"), features("reference"))
    assert rows["best"]["index"] == np.argsort(gap, kind="stable")[:10].tolist()
    assert rows["worst"]["score"][0] == gap.max()
    apart = np.square(x - load("converged", "samples.npy")).mean(axis=(1, 2, 3))
    assert rows["teacher"]["index"][0] == apart.argmax()
    near, which = nearest(features("features"), features("train_features"))
    first = rows["training"]["index"][0]
    assert first == near.argmin()
    beside = plan.dataset.space.pictures(torch.from_numpy(train[which[first]][None]))
    assert (arrays[f"{found['key']}/training-beside"][0] == beside[0]).all()
    labels = plan.dataset.conditions(0, range(300)).pack().numpy()
    assert rows["best"]["label"] == labels[rows["best"]["index"]].tolist()
    assert 0 <= found["near_training"] <= 1 and found["held_out"] == 360


def test_without_training_images_nothing_is_looked_up_among_them(
    plan, folder, tmp_path, monkeypatch
):
    bare = replace(plan.dataset, train=plan.dataset.train[:0], test=plan.dataset.test[:0])
    monkeypatch.setattr(Runtime, "dataset", lambda self: bare)
    free = ("protocol.questions=[imitation]", "variants.piflow-gm8.settings.data_free=true")
    (config,) = compose([*SETTINGS, *places(folder), *free])
    kinds = [
        s for c in make_plan(config, look=False).cells for s in c.closer if s.kind == "selection"
    ]
    assert kinds and all(not {"train", "test_features"} & set(s.inputs) for s in kinds)
    store = store_of(config)
    stage = next(s for c in plan.cells for s in c.closer if s.kind == "selection")
    names = {"samples", "features", "converged", "reference"}
    given = {n: [store.path(s) for s in of] for n, of in stage.inputs.items() if n in names}
    stage.task.run(given, tmp_path, Runtime(), lambda share, text: None)
    found = json.loads((tmp_path / "selection.json").read_text())
    assert {row["rule"] for row in found["rows"]} <= {"best", "worst", "teacher"}
    assert "near_training" not in found


def test_the_command_of_every_row_makes_that_row(plan, folder):
    run_ = inputs.read(folder / "runs" / "digits-smoke")
    primary = frames.primary(run_.info, run_.results)
    rows = every.cells(run_.results, run_.info, primary)
    commands = {row["command"] for row in rows}
    made = {}
    for command in commands:
        words = shlex.split(command)
        assert words[:4] == ["python", "-m", "piflow_bench", "run"]
        (config,) = compose(words[4:])
        made[command] = {s.key for s in make_plan(config).stages}
    assert len(rows) > 8 and len(commands) > 4
    for row in rows:
        assert row["artifact"] in made[row["command"]], row
    narrowed = {row["command"]: len(made[row["command"]]) for row in rows}
    assert min(narrowed.values()) < len(plan.stages)
