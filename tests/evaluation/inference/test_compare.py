"""Comparisons of a results table: which are tested, at which level, and by which rule."""

import numpy as np
import pandas as pd
import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.inference.cells import final, summarise
from piflow_bench.evaluation.inference.compare import COLUMNS, LEVEL, changed, compare
from piflow_bench.evaluation.inference.seeds import paired_seed_difference, seed_difference
from piflow_bench.evaluation.uncertainty import holm, jackknife_difference

RNG = np.random.default_rng(11)


def row(variant, seed, metric="fd", **changes):
    value = RNG.normal()
    base = dict(
        variant=variant,
        method=variant,
        family="f",
        track="distilled",
        role="student",
        serves="1",
        shares=1,
        train_seed=seed,
        sampler="",
        guidance=np.nan,
        budget_fraction=1.0,
        budget_tfe=1.0,
        train_images=1.0,
        train_seconds=1.0,
        train_steps=1.0,
        nfe=1,
        question="imitation",
        metric=metric,
        estimator="",
        extractor="features",
        value=value,
        ci_low=value - 1,
        ci_high=value + 1,
        n=100,
        protocol="abc",
        status="ok",
        reason="",
        higher_is_better=None,
        replicates=list(value + 0.1 * RNG.normal(size=20)),
    )
    return base | changes


def table(variants, seeds, **changes):
    return pd.DataFrame(
        [row(v, s, m, **changes) for v in variants for s in range(seeds) for m in ("fd", "recall")]
    )


def compared(results, **options):
    return compare(summarise(final(results)), ["fd", "recall"], **options)


def values(results, variant, metric="fd"):
    rows = results[(results["variant"] == variant) & (results["metric"] == metric)]
    return rows["value"].to_numpy(), np.stack(rows["replicates"].tolist())


def of(found, a, b, metric="fd"):
    return found[(found["a"] == a) & (found["b"] == b) & (found["metric"] == metric)].iloc[0]


def test_five_seeds_speak_of_methods_by_welchs_t():
    results = table("abc", 5)
    found = compared(results, leader="a")
    assert list(COLUMNS) == list(found.columns) and len(found) == 6
    assert set(found["level"]) == {"method"} and set(found["seeds"]) == {5}
    (a, left), (b, right) = (values(results, v) for v in "ac")
    expected = seed_difference(a, b, replicates=(left, right))
    one = of(found, "a", "c")
    assert (one["difference"], one["low"], one["high"], one["p"]) == pytest.approx(
        (expected.difference, expected.low, expected.high, expected.p)
    )


def test_only_the_declared_family_is_tested_and_holm_covers_all_of_it():
    results = pd.concat([table("abc", 5), table("abc", 5, nfe=4)])
    found = compared(results, leader="b")
    family = (found["a"] == "b") != (found["b"] == "b")
    assert len(found) == 12 and family.sum() == 8
    assert list(found["family"]) == list(family)
    assert found["p"].notna().tolist() == family.tolist()
    np.testing.assert_allclose(found["p_holm"][family], holm(found["p"][family]))
    assert list(found["significant"]) == list(found["p_holm"] < LEVEL)
    assert found["low"].notna().all(), "the others are described by their intervals"
    twice = compared(results, leader="b", families=2)
    np.testing.assert_allclose(
        twice["p_holm"][family], np.minimum(2 * found["p_holm"][family], 1.0)
    )


def test_declared_comparisons_that_cannot_be_tested_stay_in_the_family():
    whole = table("abcd", 5)
    failed, bare = whole.copy(), whole.copy()
    failed.loc[failed["variant"] == "d", ["value", "status"]] = [np.nan, "failed"]
    lone = bare["variant"] == "d"
    bare.loc[lone & (bare["train_seed"] > 0), ["value", "status"]] = [np.nan, "failed"]
    bare["replicates"] = [[] if d else r for d, r in zip(lone, bare["replicates"], strict=True)]
    for results, family in ((failed, 2), (bare, 3)):
        found = compare(summarise(final(results)), ["fd"], leader="a")
        tested = found[found["p"].notna()]
        assert found["family"].sum() == family and len(tested) == 2
        assert set(found["declared"]) == {3}
        first = tested.loc[tested["p"].idxmin()]
        assert first["p_holm"] == pytest.approx(min(1.0, 3 * first["p"])), "of three declared"
        assert not found["significant"][found["p"].isna()].any()


def test_specialists_of_one_budget_are_described():
    results = table("abc", 5, track="one budget")
    found = compared(results, leader="a")
    assert not found["family"].any() and found["p"].isna().all() and found["low"].notna().all()


def test_without_a_leader_nobody_is_told_apart():
    apart = table("ab", 5)
    apart.loc[apart["variant"] == "b", "value"] += 1e6
    for leader in ("", "absent"):
        found = compared(apart, leader=leader)
        assert not found["family"].any() and not found["significant"].any()
        assert found["p"].isna().all() and found["low"].notna().all()
    assert compared(apart, leader="a")["significant"].all()


def test_of_entries_every_two_are_tested_in_the_first_metric_alone():
    results = pd.concat([table("abcd", 5), table("abcd", 5, nfe=4), table("abcd", 5, nfe=2)])
    found = compared(results, entries={1: ["a", "c", "d"], 4: ["b", "c", "absent"]})
    family = found[found["family"]]
    assert list(zip(family["nfe"], family["metric"], family["a"], family["b"], strict=True)) == [
        (1, "fd", "a", "c"), (1, "fd", "a", "d"), (1, "fd", "c", "d"), (4, "fd", "b", "c"),
    ]  # fmt: skip
    assert found["p"].notna().tolist() == found["family"].tolist()
    assert set(found["declared"]) == {4} and found["low"].notna().all()
    np.testing.assert_allclose(family["p_holm"], holm(family["p"]))
    twice = pd.concat([results, table("a", 5, sampler="s=2")])
    own = compared(twice, entries={1: ["a", "c", "d"]})
    assert set(own["declared"]) == {5}, "two samplings of a against c and d, c against d"
    shared = compared(results.assign(track="one budget"), entries={1: ["a", "c"]})
    assert not shared["family"].any()
    led = compared(results, leader="b", entries={1: ["a", "c", "d"]})
    assert led["family"].equals((led["a"] == "b") | (led["b"] == "b")), "a leader comes first"
    failed = table("abcd", 5)
    failed.loc[failed["variant"] == "d", ["value", "status"]] = [np.nan, "failed"]
    assert set(compared(failed, entries={1: list("acd")})["declared"]) == {3}


def test_the_leader_is_not_tested_against_its_own_samplings():
    results = pd.concat([table("a", 5, sampler="s=1"), table("a", 5, sampler="s=2"), table("b", 5)])
    found = compared(results, leader="a")
    own = found["a"].str.startswith("a") & found["b"].str.startswith("a")
    assert own.sum() == 2 and found["family"].tolist() == (~own).tolist()


def test_one_seed_speaks_of_checkpoints():
    results = table("ab", 1)
    one = of(compared(results, leader="a"), "a", "b")
    (a, left), (b, right) = (values(results, v) for v in "ab")
    expected = jackknife_difference(a[0], left[0], b[0], right[0])
    assert one["level"] == "checkpoints" and one["seeds"] == 1
    assert (one["difference"], one["p"]) == pytest.approx((expected.difference, expected.p))


def test_below_five_seeds_each_sides_seeds_are_averaged():
    results = pd.concat([table("a", 3), table("b", 6)])
    one = of(compared(results, leader="a"), "a", "b")
    (a, left), (b, right) = (values(results, v) for v in "ab")
    expected = jackknife_difference(a.mean(), left.mean(0), b.mean(), right.mean(0))
    assert one["level"] == "checkpoints" and one["seeds"] == 3
    assert (one["difference"], one["p"]) == pytest.approx((expected.difference, expected.p))


def test_sample_seeds_are_averaged_within_a_train_seed():
    results = pd.concat([table("ab", 5), table("ab", 5)])
    found = compared(results)
    assert set(found["seeds"]) == {5} and len(found) == 2


def test_tracks_nfes_questions_and_unfinished_rows_are_kept_apart():
    results = pd.concat(
        [
            table("a", 5),
            table("b", 5, track="scratch"),
            table("c", 5, nfe=2),
            table("d", 5, question="data"),
            table("e", 5, status="failed", value=np.nan),
            table("f", 5, budget_fraction=0.5),
        ]
    )
    assert compared(results).empty


def test_a_teacher_has_no_spread_over_seeds():
    teacher = table("t", 1, role="teacher", train_seed=np.nan)
    results = pd.concat([table("a", 5), teacher])
    cells = summarise(final(results)).assign(track="distilled")
    one = of(compare(cells, ["fd"], leader="t"), "a", "t")
    (a, left), (t, right) = (values(results, v) for v in "at")
    expected = seed_difference(a, t, replicates=(left, right))
    assert (one["level"], one["seeds"]) == ("method", 5)
    assert (one["difference"], one["p"]) == pytest.approx((a.mean() - t[0], expected.p))


def test_mixed_protocols_are_refused():
    results = pd.concat([table("a", 5), table("b", 5, protocol="xyz")])
    with pytest.raises(UserError, match="abc and xyz"):
        compared(results)
    rules = {"abc": '{"k": 3, "samples": 9}', "xyz": '{"k": 5, "samples": 9}'}
    with pytest.raises(UserError, match="abc and xyz differ in k: 3 and 5;"):
        compared(results, rules=rules)
    apart = pd.concat([table("ab", 5), table("ab", 5, protocol="xyz", question="data")])
    assert len(compared(apart)) == 4


def test_missing_replicates_give_nan_not_a_verdict():
    results = table("ab", 1)
    results["replicates"] = [[] for _ in range(len(results))]
    found = compared(results, leader="a")
    assert found["p"].isna().all() and not found["significant"].any()


def test_one_variant_in_two_runs_is_paired_by_its_seeds():
    """What a change did shows in pairs where the spread over seeds would hide it."""
    old = table("a", 4).assign(value=lambda t: 100 * t["train_seed"])
    new = old.assign(value=old["value"] + 1 + 0.01 * RNG.normal(size=len(old)))
    cells = [summarise(final(t)) for t in (new, old)]
    sides = [c[c["metric"] == "fd"].iloc[0] for c in cells]
    found = changed(*sides)
    (a, _), (b, _) = (values(t, "a") for t in (new, old))
    assert found.difference == pytest.approx(1, abs=0.1) and found.p < 1e-4
    assert found.p == pytest.approx(paired_seed_difference(a, b).p, rel=0.5)
    late = summarise(final(old.assign(train_seed=old["train_seed"] + 9))).iloc[0]
    assert changed(sides[0], late).n == 20, "no common seed: blocks of samples"
