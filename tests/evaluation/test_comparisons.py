"""Paired comparisons of a results table."""

import numpy as np
import pandas as pd
import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.comparisons import COLUMNS, compare
from piflow_bench.evaluation.uncertainty import (
    holm,
    jackknife_difference,
    paired_seed_difference,
)

RNG = np.random.default_rng(11)


def row(variant, seed, metric="fd", **changes):
    value = RNG.normal()
    base = dict(
        variant=variant,
        method=variant,
        family="f",
        track="distilled",
        role="student",
        train_seed=seed,
        sample_seed=0,
        budget_fraction=1.0,
        nfe=1,
        question="imitation",
        metric=metric,
        extractor="features",
        value=value,
        ci_low=value - 1,
        ci_high=value + 1,
        n=100,
        protocol="abc",
        status="ok",
        replicates=list(value + 0.1 * RNG.normal(size=20)),
    )
    return base | changes


def table(variants, seeds, **changes):
    return pd.DataFrame(
        [row(v, s, m, **changes) for v in variants for s in range(seeds) for m in ("fd", "recall")]
    )


def values(results, variant, metric="fd"):
    rows = results[(results["variant"] == variant) & (results["metric"] == metric)]
    return rows["value"].to_numpy()


def test_five_seeds_speak_of_methods():
    results = table("abc", 5)
    found = compare(results, "fd", "recall")
    assert set(COLUMNS) == set(found.columns) and len(found) == 6
    assert set(found["level"]) == {"method"} and set(found["seeds"]) == {5}
    one = found[(found["a"] == "a") & (found["b"] == "c") & (found["metric"] == "fd")].iloc[0]
    expected = paired_seed_difference(values(results, "a"), values(results, "c"))
    assert (one["difference"], one["low"], one["high"], one["p"]) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p)
    )


def test_holm_covers_the_whole_family():
    found = compare(pd.concat([table("abc", 5), table("abc", 5, nfe=4)]), "fd", "recall")
    assert len(found) == 12
    np.testing.assert_allclose(found["p_holm"], holm(found["p"]))
    assert list(found["significant"]) == list(found["p_holm"] < 1 - 0.95)


def test_one_seed_speaks_of_checkpoints():
    results = table("ab", 1)
    one = compare(results, "fd", "recall").query("metric == 'fd'").iloc[0]
    a, b = (results[(results.variant == v) & (results.metric == "fd")].iloc[0] for v in "ab")
    expected = jackknife_difference(a.value, a.replicates, b.value, b.replicates)
    assert one["level"] == "checkpoints" and one["seeds"] == 1
    assert (one["difference"], one["p"]) == pytest.approx((expected.difference, expected.p))


def test_three_seeds_are_averaged():
    results = table("ab", 3)
    one = compare(results, "fd", "recall").query("metric == 'fd'").iloc[0]
    means = [np.mean(values(results, v)) for v in "ab"]
    left = [
        np.mean(
            np.stack(
                results[(results.variant == v) & (results.metric == "fd")]["replicates"].tolist()
            ),
            axis=0,
        )
        for v in "ab"
    ]
    expected = jackknife_difference(means[0], left[0], means[1], left[1])
    assert one["level"] == "checkpoints" and one["seeds"] == 3
    assert (one["difference"], one["p"]) == pytest.approx((expected.difference, expected.p))


def test_only_common_seeds_count():
    results = pd.concat([table("a", 6), table("b", 2)])
    found = compare(results, "fd", "recall")
    assert set(found["seeds"]) == {2} and set(found["level"]) == {"checkpoints"}


def test_sample_seeds_are_averaged_within_a_train_seed():
    results = pd.concat([table("ab", 5), table("ab", 5, sample_seed=1)])
    found = compare(results, "fd", "recall")
    assert set(found["seeds"]) == {5} and len(found) == 2


def test_tracks_nfe_and_questions_are_kept_apart():
    results = pd.concat(
        [
            table("a", 5),
            table("b", 5, track="scratch"),
            table("c", 5, nfe=2),
            table("d", 5, question="data"),
        ]
    )
    assert compare(results, "fd", "recall").empty
    assert compare(table("ab", 5, question="data"), "fd", "recall", question="imitation").empty


def test_failed_unfinished_and_other_rows_are_left_out():
    good = table("ab", 5)
    noise = pd.concat(
        [
            table("c", 5, status="failed"),
            table("d", 5, budget_fraction=0.5),
            table("e", 5, extractor="pixels"),
        ]
    )
    other = pd.DataFrame([row(v, s, "vendi") for v in "ab" for s in range(5)])
    pd.testing.assert_frame_equal(
        compare(pd.concat([good, noise, other]), "fd", "recall"), compare(good, "fd", "recall")
    )
    named = compare(
        pd.concat([good, table("ef", 5, extractor="pixels")]), "fd", "recall", extractor="pixels"
    )
    assert set(named["a"]) == {"e"}


def test_a_teacher_is_paired_with_every_seed():
    teacher = table("t", 1, role="teacher", train_seed=np.nan, budget_fraction=np.nan)
    results = pd.concat([table("a", 5), teacher])
    one = compare(results, "fd", "recall").query("metric == 'fd'").iloc[0]
    expected = np.mean(values(results, "a")) - values(teacher, "t")[0]
    assert (one["level"], one["seeds"]) == ("method", 5)
    assert one["difference"] == pytest.approx(expected)


def test_mixed_protocols_are_refused():
    results = pd.concat([table("a", 5), table("b", 5, protocol="xyz")])
    with pytest.raises(UserError, match="abc and xyz"):
        compare(results, "fd", "recall")
    rules = {"abc": '{"k": 3, "samples": 9}', "xyz": '{"k": 5, "samples": 9}'}
    with pytest.raises(UserError, match="abc and xyz differ in k: 3 and 5;"):
        compare(results.assign(rules=results["protocol"].map(rules)), "fd", "recall")
    apart = pd.concat([table("ab", 5), table("ab", 5, protocol="xyz", question="data")])
    assert len(compare(apart, "fd", "recall")) == 4


def test_missing_replicates_give_nan_not_a_verdict():
    results = table("ab", 1)
    results["replicates"] = None
    found = compare(results, "fd", "recall")
    assert found["p"].isna().all() and not found["significant"].any()


def test_unknown_primary_metric():
    with pytest.raises(UserError, match="'recal'; did you mean 'recall'"):
        compare(table("ab", 1), "fd", "recal")


def test_a_null_rarely_comes_out_significant():
    hits = [compare(table("ab", 5), "fd", "recall")["significant"].any() for _ in range(60)]
    assert np.mean(hits) < 0.15
