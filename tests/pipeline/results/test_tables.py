"""Rows of results and of curves, from artifacts that are written by hand."""

import json
import math

import pandas as pd
import pytest

from piflow_bench.config.compose import compose
from piflow_bench.pipeline.launchers.schedule import Failure, Outcome
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.results.schema import CURVES, RESULTS
from piflow_bench.pipeline.results.tables import curves_table, results_table
from tests.pipeline.results.made import cell_of, config, finish, plan_of
from tests.pipeline.tasks import stage_of

INTERVAL = {"interval": "jackknife", "estimand": "expectation", "estimator": ""}
FD = {"metric": "fd", "value": 2.0, "ci_low": 1.5, "ci_high": 2.5, "n": 4, "replicates": [1.9, 2.1]}
RECALL = {**FD, "metric": "recall", "value": 0.5}
OWN = {**FD, "metric": "one_of_mine", "replicates": []}
SCORES = [{**each, **INTERVAL} for each in (FD, RECALL, OWN)]
SPENT = [
    {"tfe": 10.0, "images": 64, "seconds": 1.0, "step": 2, "rows": {"student/grad": 64},
     "params": 9},
    {"tfe": 100.0, "images": 640, "seconds": 9.0, "step": 20, "rows": {"b": 2.0, "a": 1.0},
     "params": 9, "memory": 300.0},
]  # fmt: skip


def sampled(store, *shards):
    """Stages of shards with these facts."""
    stages = [stage_of("sample", i) for i, _ in enumerate(shards)]
    for stage, facts in zip(stages, shards, strict=True):
        finish(store, stage, facts_json=facts)
    return stages


def measure(n=1, **given):
    return stage_of("metrics", n, **{"question": "imitation", "extractor": "digits", **given})


def table_of(store, *cells, outcome=None, **others):
    return results_table(plan_of(*cells, **others), store, outcome or Outcome())


def test_what_is_beside_the_teachers_sample_says_so(store):
    """Not the reference set, with which the other metrics of the stage compare."""
    stage = measure()
    cosine = {**FD, **INTERVAL, "metric": "teacher_cosine"}
    finish(store, stage, metrics_json=[*SCORES, cosine])
    found = table_of(store, cell_of([stage])).set_index("metric")["reference"]
    assert found["teacher_cosine"] == "converged teacher, same noise"
    assert found["fd"].startswith("500 converged samples") and found["recall"] == found["fd"]


def test_a_row_for_every_score(store):
    stage = measure()
    finish(store, stage, metrics_json=SCORES)
    table = table_of(store, cell_of([stage], nfe=4, guidance=1.5, sampler="substeps=8"))
    assert list(table) == RESULTS.names and len(table) == 3
    assert table["metric"].tolist() == ["fd", "recall", "one_of_mine"]
    assert table["higher_is_better"].tolist() == [False, True, pd.NA]
    row = table.iloc[0]
    assert (row["value"], row["ci_low"], row["ci_high"], row["n"]) == (2.0, 1.5, 2.5, 4)
    assert row["replicates"] == [1.9, 2.1] and row["estimand"] == "expectation"
    assert (row["run"], row["experiment"], row["sample_seed"]) == ("mine", "digits", 3)
    assert (row["variant"], row["nfe"], row["guidance"]) == ("kd", 4, 1.5)
    assert (row["question"], row["extractor"]) == ("imitation", "digits")
    assert (row["artifact"], row["protocol"]) == (stage.key, "5f3c")
    assert json.loads(row["rules"]) == {"samples": 4}
    assert (row["status"], row["reason"]) == ("ok", "")
    assert (row["start"], row["duration"]) == ("2026-01-01T00:00:00Z", 2.5)


def test_costs_are_those_of_the_cells_checkpoint(store):
    stage, training = measure(), stage_of("distill")
    finish(store, stage, metrics_json=SCORES[:1])
    finish(store, training, checkpoints_json=SPENT)
    first, last = (
        table_of(store, cell_of([stage], distill=training, checkpoint=i)).iloc[0] for i in (0, 1)
    )
    assert (first["train_tfe"], first["train_images"], first["train_steps"]) == (10, 64, 2)
    assert math.isnan(first["train_memory"]) and last["train_memory"] == 300
    assert last["budget_tfe"] == last["train_tfe"] == 100 and last["params"] == 9
    assert last["train_rows"] == '{"a": 1.0, "b": 2.0}' and last["train_seconds"] == 9
    only = table_of(store, cell_of([stage], distill=training, checkpoint=None)).iloc[0]
    assert only["train_tfe"] == 10, "the only checkpoint is the first"


def test_costs_of_samples_are_means_over_all_shards_and_their_nfe_is_counted(store):
    stage = measure()
    finish(store, stage, metrics_json=SCORES[:1])
    shards = sampled(
        store,
        {"n": 3, "nfe": 2.0, "flops_per_sample": 8.0, "sample_seconds": 1.0,
         "policy_seconds": 0.5, "memory": 10.0},
        {"n": 1, "nfe": 2.0, "flops_per_sample": 8.0, "sample_seconds": 5.0,
         "policy_seconds": 0.5, "memory": 30.0},
    )  # fmt: skip
    row = table_of(store, cell_of([stage], shards, nfe=None)).iloc[0]
    assert (row["flops_per_sample"], row["sample_seconds"], row["policy_seconds"]) == (8, 2, 0.5)
    assert (row["sample_memory"], row["nfe"]) == (30, 2)
    lacking = [*shards, stage_of("sample", 9)]
    row = table_of(store, cell_of([stage], lacking, nfe=7)).iloc[0]
    assert row["nfe"] == 7 and math.isnan(row["sample_seconds"]), "not all are there"


def test_what_is_not_trained_cost_nothing_and_what_is_not_sampled_is_unknown(store):
    stage = measure()
    finish(store, stage, metrics_json=SCORES[:1])
    cell = cell_of([stage], role="control", train_seed=None, nfe=None, track="none")
    row = table_of(store, cell).iloc[0]
    trained = ["budget_tfe", "train_tfe", "train_images", "train_seconds", "train_steps"]
    assert (row[trained] == 0).all() and row["train_rows"] == "{}"
    unknown = ["params", "train_memory", "flops_per_sample", "sample_seconds", "sample_memory"]
    assert row[unknown].isna().all() and row["train_seed"] is pd.NA and row["nfe"] is pd.NA


def test_what_failed_says_why_and_what_is_to_come_is_no_failure(store):
    done, lost, coming = (measure(i) for i in range(3))
    finish(store, done, metrics_json=SCORES[:1])
    outcome = Outcome(failures={lost.key: Failure(lost, "loss is not finite")})
    plan = plan_of(cell_of([done, lost, coming]))
    table = results_table(plan, store, outcome)
    assert table["status"].tolist() == ["ok", "failed", "pending"]
    assert table["reason"].tolist() == ["", "loss is not finite", "not computed"]
    assert table["metric"].tolist() == ["fd"] * 3, "the primary metric stands for all"
    holes = table.iloc[1:]
    assert holes[["value", "ci_low", "ci_high", "duration"]].isna().all(axis=None)
    assert holes["n"].tolist() == [0, 0] and holes["replicates"].tolist() == [[], []]
    assert holes["start"].tolist() == ["", ""] and not holes["higher_is_better"].any()
    known = results_table(plan, store, outcome, pending=False)
    assert known["status"].tolist() == ["ok", "failed"]


@pytest.mark.parametrize("name", ["digits", "analytic_mixture2d", "analytic_checkerboard2d"])
def test_every_row_of_a_shipped_plan_fits(name, store):
    """Split budgets, controls, several ways of sampling: before anything of it is made."""
    (asked,) = compose([f"experiment={name}", "profile=smoke"])
    plan = make_plan(asked)
    table = results_table(plan, store, Outcome())
    assert set(table["status"]) == {"pending"} and set(table["role"]) > {"student", "control"}
    assert len(table) == sum(len(cell.results) for cell in plan.cells)
    if name == "digits":
        assert set(table["track"]) == {"distilled", "one budget", "none"}


def test_an_empty_plan_has_a_table(store):
    assert list(table_of(store)) == RESULTS.names


def test_rows_name_every_machine_and_version_once(store):
    """Trained there by one commit, sampled and measured here by another."""
    training, stage = stage_of("distill"), measure()
    far = {"git_commit": "feed", "hardware": "a GPU", "node": "far",
           "versions": {"python": "3.11", "torch": "9.9"}}  # fmt: skip
    finish(store, training, far, checkpoints_json=SPENT)
    shards = sampled(store, {"n": 1, "nfe": 1})
    finish(store, stage, metrics_json=SCORES[:1])
    row = table_of(store, cell_of([stage], shards, training)).iloc[0]
    assert (row["git_commit"], row["hardware"]) == ("feed, c0ffee", "a GPU, a CPU")
    assert (row["node"], row["train_hardware"], row["sample_hardware"]) == (
        "far, here", "a GPU", "a CPU",
    )  # fmt: skip
    assert json.loads(row["versions"]) == {"python": "3.11", "torch": "9.9, 2.6"}
    unmade = table_of(store, cell_of([measure(9)])).iloc[0]
    assert (unmade["hardware"], unmade["versions"]) == ("", "{}")


FILE = "the protocol's reference file of real images"


class Data:
    def __init__(self, held_out=(), reference=None):
        self.held_out, self.reference = held_out, reference


@pytest.mark.parametrize(
    "stage, dataset, words",
    [
        (measure(), Data(), "500 converged samples of the guided teacher (heun, 50 steps)"),
        (measure(question="truth"), Data(), "500 exact samples"),
        (measure(question="data"), Data(range(360)), "360 held-out real samples"),
        (measure(question="data"), Data((), "f.npz"), FILE),
        (stage_of("scores"), Data(), ""),
        (
            stage_of("scores", inputs={"converged": (stage_of("draw"),)}),
            Data(),
            "converged teacher, same noise",
        ),
    ],
)  # fmt: skip
def test_the_reference_in_words(stage, dataset, words, store):
    table = table_of(store, cell_of([stage]), dataset=dataset)
    assert table["reference"].tolist() == [words]


def test_scores_without_a_question_are_of_the_primary_one(store):
    others = vars(config().protocol) | {"primary_question": "truth"}
    asked = config(protocol=type("P", (), others))
    row = table_of(store, cell_of([stage_of("scores")]), config=asked).iloc[0]
    assert (row["question"], row["extractor"]) == ("truth", "samples")


def test_a_scores_field_that_no_column_has_is_an_error(store):
    stage = measure()
    finish(store, stage, metrics_json=SCORES[:1])
    with pytest.raises(ValueError, match=r"results.parquet: a row has colour, not as its schema"):
        table_of(store, cell_of([stage], colour="red"))


def test_curves_are_of_every_training_once(store):
    about = {"variant": "kd", "base": "kd", "train_seed": 0, "train_nfe": None}
    first, second = stage_of("distill", 1, about=about), stage_of("distill", 2, about=about)
    steps = [{"step": i, "tfe": 3.0 * i, "images": 64 * i, "seconds": 0.1, "loss": 1.0 / i}
             for i in (1, 2)]  # fmt: skip
    finish(store, first, log_jsonl="\n".join(map(json.dumps, steps)))
    cells = [cell_of(distill=first), cell_of(distill=first), cell_of(distill=second), cell_of()]
    table = curves_table(plan_of(*cells), store)
    assert list(table) == [*CURVES.names, "loss"]
    assert table["step"].tolist() == [1, 2] and table["loss"].tolist() == [1.0, 0.5]
    assert table["train_nfe"].isna().all() and str(table["train_nfe"].dtype) == "Int64"
    assert list(curves_table(plan_of(), store)) == CURVES.names
