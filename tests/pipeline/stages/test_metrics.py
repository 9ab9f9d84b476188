"""Stages of metrics called one by one: which labels they know, and which blocks follow."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from piflow_bench.config.compose import compose
from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Modes, Truth
from piflow_bench.evaluation.design import Design
from piflow_bench.evaluation.features import evaluate_features
from piflow_bench.pipeline import artifacts
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.stages.metrics import MODES, RARE, Measure, Partition
from piflow_bench.pipeline.stages.scores import ScoreSamples
from tests.world import world

CLASSES, N, M = 6, 240, 600
METRICS = ["fd", "kid_exact", "energy_distance", "vendi", "pairwise_distance"]
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 2, (CLASSES, 5))


def sample(labels, seed):
    return CENTRES[labels] + np.random.default_rng(seed).normal(size=(len(labels), 5))


def in_turn(seed, indices):
    return Classes(torch.tensor([i % CLASSES for i in indices]), CLASSES)


TRAIN, TEST = (np.random.default_rng(s).integers(CLASSES, size=N) for s in (8, 9))
DATASET = SimpleNamespace(
    conditions=in_turn,
    test_condition=Classes(torch.from_numpy(TEST), CLASSES),
    memorised_condition=lambda n: Classes(torch.from_numpy(TRAIN), CLASSES),
    truth=None,
)
SAMPLED = {"from": "conditions", "seed": 0, "law": "balanced"}
REFERENCE = {"from": "conditions", "seed": 1, "law": "balanced"}


RUNTIME = SimpleNamespace(dataset=lambda: DATASET)


def stored(folder, features):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "features.npz", f=features, judge=np.eye(CLASSES)[TRAIN[: len(features)]])
    return folder


def scored(
    tmp_path, x, y, labels, reference_labels, metrics=METRICS, accuracy=False, modes=None, half=0
):
    """The rows by metric that a metrics stage writes; ``modes``: of a known mixture."""
    known = SimpleNamespace(**{**vars(DATASET), "truth": Truth(None, None, modes)})
    runtime = SimpleNamespace(dataset=lambda: known)
    task = Measure(
        dataset={}, question="data", extractor="f", n=len(x), metrics=metrics, versions={},
        settings={}, accuracy=accuracy, modes=modes is not None, labels=labels,
        reference_labels=reference_labels, half=half,
    )  # fmt: skip
    inputs = {"generated": [stored(tmp_path / "x", x)], "reference": [stored(tmp_path / "y", y)]}
    task.run(inputs, tmp_path, runtime, lambda *told: None)
    return {row["metric"]: row for row in json.loads((tmp_path / "metrics.json").read_text())}


def test_a_run_scores_as_evaluate_features_does(tmp_path):
    labels, others = (np.arange(n) % CLASSES for n in (N, M))
    x, y = sample(labels, 1), sample(others, 2)
    found = scored(tmp_path, x, y, SAMPLED, REFERENCE)
    direct = evaluate_features(x, y, METRICS, labels=labels.astype(str), reference_labels=others)
    for _, row in direct.iterrows():
        same = found[row["metric"]]
        for column in ("value", "ci_low", "ci_high", "estimator"):
            assert same[column] == row[column], (row["metric"], column)
    assert found["kid_exact"]["estimator"] == "stratified by 6 classes"


def test_halves_are_of_each_side_and_share_nothing(tmp_path):
    labels = np.arange(N) % CLASSES
    x, y = sample(labels, 1), sample(np.sort(TEST), 2)
    order = np.random.default_rng(0).permutation(N)
    for half, ours, theirs in ((1, slice(N // 2), order[: N // 2]),
                               (2, slice(N // 2, N), order[N // 2 :])):  # fmt: skip
        found = scored(tmp_path, x, y, SAMPLED, {"from": "test"}, accuracy=True, half=half)
        direct = evaluate_features(x[ours], y[theirs], METRICS, labels=labels[ours].astype(str))
        for _, row in direct.iterrows():
            same = found[row["metric"]]
            assert (same["value"], same["n"]) == (pytest.approx(row["value"]), N // 2)
        right = np.mean(TRAIN[ours] == labels[ours])
        assert found["class_accuracy"]["value"] == pytest.approx(right)


def test_moments_of_all_rows_are_none_of_a_half(tmp_path):
    x, y = sample(np.arange(N) % CLASSES, 1), sample(TEST, 2)
    plain = scored(tmp_path, x, y, SAMPLED, {"from": "test"}, ["fd"], half=2)
    with np.load(tmp_path / "y" / "features.npz") as kept:
        arrays = dict(kept)
    moments = {"f/mean": y.mean(0) + 9.0, "f/scatter": np.cov(y.T), "f/count": np.array([N])}
    np.savez(tmp_path / "y" / "features.npz", **arrays, **moments)
    assert artifacts.moments_of([tmp_path / "y"], "f") is not None
    task = Measure(
        dataset={}, question="second_half", extractor="f", n=N, metrics=["fd"], versions={},
        settings={}, accuracy=False, modes=False, labels=SAMPLED, reference_labels={"from": "test"},
        half=2,
    )  # fmt: skip
    inputs = {"generated": [tmp_path / "x"], "reference": [tmp_path / "y"]}
    task.run(inputs, tmp_path, RUNTIME, lambda *told: None)
    (row,) = json.loads((tmp_path / "metrics.json").read_text())
    assert row["value"] == plain["fd"]["value"]


def test_a_metric_that_needs_labels_changes_no_other_one_and_breaks_no_control(tmp_path):
    x, y = sample(TRAIN, 1), sample(TEST, 2)
    beside = [*METRICS, "vendi_within", "pairwise_within"]
    of_train = {"from": "train", "n": 0}
    alone = scored(tmp_path, x, y, of_train, {"from": "test"})
    memoriser = scored(tmp_path, x, y, of_train, {"from": "test"}, beside, accuracy=True)
    assert {name: memoriser[name] for name in METRICS} == alone
    within = [np.mean(_cosine_distances(x[c == TRAIN])) for c in range(CLASSES)]
    assert memoriser["pairwise_within"]["value"] == pytest.approx(np.mean(within))
    assert memoriser["class_accuracy"]["value"] == 1.0, "the training images' own labels"
    unknown = scored(tmp_path, x, y, None, None, beside)
    assert set(unknown) == set(METRICS)


def test_a_metric_that_some_samples_lack_makes_no_row_there(tmp_path):
    x, y = sample(np.arange(N) % CLASSES, 1), sample(np.arange(M) % CLASSES, 2)
    asked = ["precision", "matched_recall"]
    assert set(scored(tmp_path, x, y, SAMPLED, REFERENCE, asked)) == set(asked)
    far = scored(tmp_path, x + 99.0, y, SAMPLED, REFERENCE, asked)
    assert set(far) == {"precision"} and far["precision"]["value"] == 0


def test_samples_of_a_mixture_have_rows_of_its_modes_and_of_rare_ones_where_there_are(tmp_path):
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    x = np.repeat(centres, [150, 60, 30], axis=0)[np.random.default_rng(4).permutation(N)]
    rows = {}
    for name, weights in {"equal": [1, 1, 1], "skewed": [0.75, 0.125, 0.125]}.items():
        modes = Modes(centres, 0.5, np.array(weights))
        rows[name] = scored(tmp_path, x, x, None, None, ["fd"], modes=modes)
    assert set(rows["equal"]) == {"fd", *MODES} - {RARE}
    assert set(rows["skewed"]) == {"fd", *MODES}
    found = rows["skewed"][RARE]
    assert found["value"] == pytest.approx((90 / N) / 0.25)
    # A share of the blocks' means: its jackknife is the spread of their means.
    assert found["value"] == pytest.approx(np.mean(found["replicates"]), rel=1e-9)
    assert 1.2 < found["ci_low"] < found["value"] < found["ci_high"] < 1.8
    assert scored(tmp_path, x, x, None, None, ["fd"]).keys() == {"fd"}


def _cosine_distances(x):
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    return 1 - (z @ z.T)[~np.eye(len(z), dtype=bool)]


def test_real_against_real_knows_its_labels(tmp_path):
    pool = sample(np.concatenate([TRAIN, TEST]), 3)
    task = Partition(
        dataset={}, question="data", extractor="f", n=100, reference=200, repeats=2, settings={},
        metrics=["fd", "pairwise_within"], versions={},
        labels=[{"from": "train", "n": 0}, {"from": "test"}],
    )  # fmt: skip
    inputs = {"real": [stored(tmp_path / "x", pool)]}
    task.run(inputs, tmp_path, RUNTIME, lambda *told: None)
    rows = {row["metric"]: row for row in json.loads((tmp_path / "metrics.json").read_text())}
    assert rows["pairwise_within"]["value"] < 0.8 and set(rows) == {"fd", "pairwise_within"}
    task = replace(task, labels=[None, {"from": "test"}])
    task.run(inputs, tmp_path, RUNTIME, lambda *told: None)
    assert len(json.loads((tmp_path / "metrics.json").read_text())) == 1


def test_agreement_is_paired_by_the_blocks_of_the_metrics(tmp_path):
    labels = np.arange(N) % CLASSES
    x = sample(labels, 1).astype(np.float32)
    for name, shift in (("a", 0.0), ("b", 1.0)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "samples.npy", x + shift * labels[:, None])
    task = ScoreSamples(
        dataset={}, space={}, metrics=["flow_map_error"], versions={}, lpips=None, labels=SAMPLED
    )
    inputs = {"samples": [tmp_path / "a"], "converged": [tmp_path / "b"]}
    task.run(inputs, tmp_path, RUNTIME, lambda *told: None)
    (row,) = json.loads((tmp_path / "metrics.json").read_text())
    # Every block holds every class alike, so that no block is left out of the mean in vain.
    assert np.allclose(row["replicates"], row["value"], rtol=1e-6)


def test_a_plan_tells_every_stage_where_labels_come_from_and_the_protocol_their_law():
    (config,) = compose(["profile=smoke", "only=[piflow-gm8]", "nfes=[1]"])
    plan = make_plan(config)
    assert plan.rules["label_law"] == "balanced"
    scored = [s for c in plan.cells for s in c.results if s.kind == "metrics"]
    sampled = {"from": "conditions", "seed": config.sample_seed, "law": "balanced"}
    converged = {**sampled, "seed": config.protocol.reference_seed}
    theirs = {"imitation": converged, "data": {"from": "test"}}
    for stage in scored:
        memoriser = "memoriser" in stage.label
        assert stage.task.labels == ({"from": "train", "n": 0} if memoriser else sampled)
        assert stage.task.reference_labels == theirs[stage.task.question]
    assert {s.task.question for s in scored} == set(theirs)
    assert any(stage.task.labels != sampled for stage in scored), "the memoriser"


def test_the_law_of_labels_is_what_a_dataset_says():
    data = world().dataset()
    labels = data.conditions(0, range(255)).pack().numpy()
    assert Design.of(255, labels, data.label_law).groups is not None
    with pytest.raises(ValueError, match="label_law='even' must be one of balanced, uniform"):
        replace(data, label_law="even")
