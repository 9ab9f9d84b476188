"""The work horse: every replicate against recomputation, settings, and its errors."""

import subprocess
import sys

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.features import evaluate_features, evaluate_with_replicates
from piflow_bench.evaluation.metrics import distances, frechet
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.evaluation.references import facts as reference
from piflow_bench.evaluation.subsets import subset

ENOUGH = {"generated", "reference", "logits", "labels"}
FEATURE_METRICS = [m.name for m in all_metrics().values() if m.compute and set(m.needs) <= ENOUGH]

RNG = np.random.default_rng(9)
X, Y, LOGITS = RNG.normal(0.2, 1.1, (90, 6)), RNG.normal(size=(140, 6)), RNG.normal(size=(90, 4))
LABELS = np.arange(90) % 3
SMALL = {
    "kid_subsets": 5,
    "kid_subset_size": 40,
    "is_splits": 3,
    "mind_directions": 20,
    "sliced_directions": 20,
}
BLOCKS = {
    "contiguous": np.arange(90) * 6 // 90,
    "interleaved": np.arange(90) % 7,
    "uneven": (np.arange(90) > 30).astype(int) + (np.arange(90) > 75),
}


@pytest.mark.parametrize("ids", BLOCKS)
@pytest.mark.parametrize("name", [m for m in FEATURE_METRICS if not m.endswith("_std")])
def test_replicates_equal_recomputation_without_the_block(name, ids):
    blocks, s = BLOCKS[ids], SMALL | {"is_shuffle": False}

    def scored(rows, **blocked):
        extras = {"generated_logits": LOGITS[rows]}
        if "labels" in all_metrics()[name].needs:  # Pair statistics: see test_stratified.
            extras["labels"] = LABELS[rows]
        return evaluate_with_replicates(X[rows], Y, [name], **extras, **blocked, **s)[0]

    found = scored(slice(None), block_ids=blocks)
    assert len(found.replicates) == blocks.max() + 1 and found.n == 90
    if name in ("kid", "fd_infinity", "matched_recall"):
        return  # they keep one random draw for all replicates: see below, and pairs/test_matched
    for b, replicate in enumerate(found.replicates):
        assert replicate == pytest.approx(scored(blocks != b).value, rel=1e-9, abs=1e-12)


def kid_exact(x, y):
    return evaluate_with_replicates(x, y, ["kid_exact"], intervals=False)[0].value


def test_kid_replicates_take_the_block_out_of_the_same_subsets():
    blocks = BLOCKS["contiguous"]
    found = evaluate_with_replicates(X, Y, ["kid"], block_ids=blocks, **SMALL)
    assert [each.metric for each in found] == ["kid", "kid_std"]
    draws = distances.kid_draws(90, 140, 5, 40, 2020)
    for b, replicate in enumerate(found[0].replicates):
        each = [kid_exact(X[i[blocks[i] != b]], Y[j]) for i, j in draws]
        assert replicate == pytest.approx(np.mean(each), rel=1e-9)
    assert (found[0].value, found[1].value) == pytest.approx(
        distances.kid_subsets(X, Y, 5, 40, 2020), rel=1e-12
    )


def test_fd_infinity_replicates_keep_the_order():
    blocks = BLOCKS["contiguous"]
    found = evaluate_with_replicates(X, Y, ["fd_infinity"], block_ids=blocks)[0]
    factored = reference.Reference(Y).frechet()
    assert found.value == pytest.approx(frechet.fd_infinity(X, factored, 2020))
    order = np.random.RandomState(2020).permutation(90)
    for b, replicate in enumerate(found.replicates):
        kept = order[blocks[order] != b]
        again = frechet.fd_infinity(X[kept], factored, order=np.arange(len(kept)))
        assert replicate == pytest.approx(again, rel=1e-9)


def test_golden_through_the_public_table(golden):
    v = golden.values
    table = evaluate_features(
        golden.gen,
        golden.ref,
        [name for name in FEATURE_METRICS if not name.endswith("_within")],
        golden.gen_logits,
        kid_subsets=50,
        kid_subset_size=100,
        is_splits=5,
    ).set_index("metric")["value"]
    for name, key in {
        "fd": "fd",
        "kid": "kid_mean",
        "kid_std": "kid_std",
        "cmmd": "cmmd_biased_sigma10_x1000",
        "kid_exact": "kid_exact_unbiased",
        "mind": "mind_1000",
        "is": "is_mean_shuffled_5_seed2020",
        "is_std": "is_std_shuffled_5_seed2020",
        "vendi": "vendi_cosine",
    }.items():
        assert table[name] == pytest.approx(v[key], rel=1e-5), name
    assert table["precision"] == pytest.approx(v["precision_k3"], abs=0.0021)
    assert table["recall"] == pytest.approx(v["recall_k3"], abs=0.0017)


def test_table_columns_and_spreads():
    table = evaluate_features(X, Y, ["vendi", "kid", "fd", "is"], LOGITS, **SMALL)
    assert list(table.columns) == ["metric", "value", "ci_low", "ci_high", "n", "estimator"]
    assert list(table["metric"]) == ["vendi", "kid", "kid_std", "fd", "is", "is_std"]
    spread = table["metric"].str.endswith("_std")
    assert table.loc[spread, "ci_low"].isna().all() and table.loc[~spread, "ci_low"].notna().all()
    assert (table.loc[~spread, "ci_low"] < table.loc[~spread, "value"]).all()


def test_confidence_widens():
    narrow, wide = (evaluate_with_replicates(X, Y, ["fd"], confidence=c)[0] for c in (0.5, 0.99))
    assert wide.ci_high - wide.ci_low > 2 * (narrow.ci_high - narrow.ci_low)


def test_neighbour_reference_takes_a_fixed_draw():
    names = ["precision", "recall", "density", "coverage", "authpct"]
    few = evaluate_with_replicates(X, Y, names, neighbour_reference=50)
    cut = evaluate_with_replicates(X, Y[subset(len(Y), 50)], names)
    assert few[:4] == cut[:4]
    classes = np.repeat([0, 1], [len(Y) // 2, len(Y) - len(Y) // 2])
    by_class = evaluate_with_replicates(
        X, Y, names, neighbour_reference=50, reference_labels=classes
    )
    cut = evaluate_with_replicates(X, Y[subset(len(Y), 50, classes)], names)
    assert by_class[:4] == cut[:4]
    assert few[4] == evaluate_with_replicates(X, Y, ["authpct"])[0]


def test_block_changes_memory_not_values():
    names = ["precision", "recall", "density", "coverage", "authpct"]
    assert evaluate_with_replicates(X, Y, names, block=7) == evaluate_with_replicates(X, Y, names)


DRAWN_BY_INDEX = {"kid", "kid_std", "is", "is_std", "fd_infinity", "mind", "matched_recall"}
"""Estimators that draw samples by their index (MIND where the sets' sizes differ)."""


def scored_for_invariance(x, y, logits, labels, **settings):
    """Every metric; the tiles of the distances in both precisions, by sample counts."""
    table = evaluate_features(
        x, y, FEATURE_METRICS, logits, labels, intervals=False, **SMALL | settings
    )
    return table.set_index("metric")["value"]


def assert_alike(found, expected, n):
    for name, value in expected.items():
        share = name in ("precision", "recall", "coverage", "density", "authpct")
        slack = {"abs": 1 / n} if share else {"rel": 1e-6, "abs": 1e-12}
        assert found[name] == pytest.approx(value, **slack), name


@pytest.mark.parametrize("n", [90, 2300], ids=["float64 strips", "float32 strips"])
def test_strips_and_order_change_no_metric(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(0.2, 1.1, (n, 5)), rng.normal(size=(n + 30, 5))
    logits, labels = rng.normal(size=(n, 4)), np.arange(n) % 3
    expected = scored_for_invariance(x, y, logits, labels)
    for block in (1, 64) if n < 1000 else (77, 1000):
        reference._FACTS.clear()
        found = scored_for_invariance(x, y, logits, labels, block=block)
        assert_alike(found, expected, n)
    rows, others = rng.permutation(n), rng.permutation(n + 30)
    found = scored_for_invariance(x[rows], y[others], logits[rows], labels[rows])
    assert_alike(found, expected.drop(list(DRAWN_BY_INDEX)), n)
    assert not np.isclose(found["kid"], expected["kid"], rtol=1e-6), "docs/evaluate.md says so"


def test_facts_of_one_reference_are_not_used_for_another():
    others = ("is", "is_std", "kid", "kid_std", "vendi_within", "pairwise_within")
    names = [name for name in FEATURE_METRICS if name not in others]
    first = evaluate_with_replicates(X, Y, names, **SMALL)
    evaluate_with_replicates(X, Y + 0.5, names, **SMALL)
    assert evaluate_with_replicates(X, Y, names, **SMALL) == first
    reference._FACTS.clear()
    assert evaluate_with_replicates(X, Y, names, **SMALL) == first


def test_changed_array_is_a_new_reference():
    y = Y.copy()
    before = evaluate_with_replicates(X, y, ["fd"])[0].value
    y *= 2
    assert evaluate_with_replicates(X, y, ["fd"])[0].value != before


def test_pairwise_distance_is_over_all_pairs_whatever_is_known_and_asked_beside_it():
    plain = evaluate_with_replicates(X, None, ["pairwise_distance"])[0]
    beside = ["vendi_within", "pairwise_distance", "pairwise_within"]
    found = evaluate_with_replicates(X, None, beside, labels=LABELS)
    assert found[1].value == plain.value and found[2].value != plain.value


def test_float32_input_and_a_handful_of_samples():
    found = evaluate_with_replicates(X[:5].astype(np.float32), Y, ["fd", "vendi", "coverage"])
    assert all(len(each.replicates) == 2 for each in found)


def test_facts_of_a_reference_survive_those_of_others(monkeypatch):
    """However few are kept, those a call has found are not pushed out before it has read them."""
    names = ["kid_exact", "energy_distance", "recall", "authpct"]
    expected = evaluate_features(X, Y, names)
    monkeypatch.setattr(reference, "_KEPT", 2)
    reference._FACTS.clear()
    evaluate_features(X, Y, ["energy_distance"])
    found = evaluate_features(X, Y, names)
    assert np.array_equal(found["value"], expected["value"])


def test_vendi_needs_no_reference():
    assert evaluate_features(X, metrics=["vendi"])["value"].notna().all()


BAD = np.array(X)
BAD[[4, 7], 2] = np.nan
ERRORS = {
    "unknown metric 'recal'; did you mean 'recall'": dict(metrics=["recal"]),
    "kid_subset: no such setting; did you mean 'kid_subset": dict(kid_subset=3),
    "'flow_map_error' cannot be computed from features: it needs teacher": dict(
        metrics=["flow_map_error"]
    ),
    "'teacher_mse' needs the teacher's samples": dict(metrics=["teacher_mse"]),
    "'fd' needs reference features": dict(reference=None),
    "'is' needs generated_logits": dict(metrics=["is"]),
    "columns and the reference 3": dict(reference=Y[:, :3]),
    "2 of 90 rows are not finite, the first is row 4": dict(generated=BAD),
    r"must have shape \(n, d\), not \(6,\)": dict(generated=X[0]),
    "1 sample": dict(generated=X[:1]),
    "real numbers": dict(generated=np.array([["a"], ["b"]])),
    "kid_subset_size=1000 exceeds the 90 samples; set kid_subset_size=90": dict(metrics=["kid"]),
    "k=0: must be at least 1": dict(k=0),
    "k=2.5: must be int, at least 1": dict(k=2.5),
    "k=90 needs more than 90 points": dict(metrics=["precision"], k=90, reference=X),
    "comparator=<=: must be le or lt": dict(comparator="<="),
    "confidence=95: must be above 0 and below 1": dict(confidence=95),
    "is_shuffle=no: must be bool": dict(is_shuffle="no"),
    "neighbour_reference=1: must be at least 2": dict(neighbour_reference=1),
    "block_ids has 3 rows for 90": dict(block_ids=np.arange(3)),
    "one block only": dict(block_ids=np.zeros(90)),
    "metric 'vendi': generated row 0 is all zeros": dict(metrics=["vendi"], generated=X * 0),
}


@pytest.mark.parametrize("message", ERRORS)
def test_user_errors(message):
    arguments = dict(generated=X, reference=Y, metrics=["fd"]) | ERRORS[message]
    with pytest.raises(UserError, match=message):
        evaluate_with_replicates(**arguments)


def test_distances_of_moments_need_no_torch():
    code = """
import sys
import numpy as np
from piflow_bench.evaluation.features import evaluate_features
from piflow_bench.evaluation.metrics import modes
from piflow_bench.evaluation.inference import compare
x = np.random.default_rng(0).normal(size=(50, 3))
evaluate_features(x, x + .1, ["fd", "kid_exact", "vendi"])
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", [(300, 24), (40, 64)], ids=["n > d", "n < d"])
@pytest.mark.parametrize("intervals", [True, False])
def test_float32_features_score_as_the_same_numbers_in_float64(shape, intervals):
    """They are not copied as float64; what is computed from them is."""
    n, d = shape
    rng = np.random.default_rng(5)
    x, y = (rng.random((n, d), dtype=np.float32) + shift for shift in (np.float32(0), 0.1))
    labels, logits = np.arange(n) % 4, rng.normal(size=(n, 4))
    names = [m for m in FEATURE_METRICS if not m.endswith("_std")]
    settings = SMALL | {"intervals": intervals, "kid_subset_size": 20}
    one, other = (
        evaluate_features(*both, names, generated_logits=logits, labels=labels, **settings)
        for both in ((x, y), (x.astype(np.float64), y.astype(np.float64)))
    )
    assert list(one["metric"]) == list(other["metric"])
    for column in ("value", "ci_low", "ci_high"):
        np.testing.assert_allclose(one[column], other[column], rtol=1e-8, atol=1e-10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["mapped", "strided", "other byte order", "mixed", "lists"])
def test_features_score_alike_however_they_are_held(kind, tmp_path):
    rng = np.random.default_rng(6)
    x, y = rng.random((2, 120, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    held = {
        "mapped": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "other byte order": x.astype(">f4"),
        "mixed": x.astype(np.float64),
        "lists": x.tolist(),
    }[kind]
    names = ["fd", "kid_exact", "precision", "recall", "authpct", "vendi", "energy_distance"]
    values = [evaluate_features(each, y, names)["value"] for each in (x, held)]
    np.testing.assert_allclose(*values, rtol=1e-12)
