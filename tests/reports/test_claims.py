"""The page of claims: verdicts of results whose truth is known, each with its interval."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from piflow_reports import claims_page
from piflow_reports.claims_page import HELD, NOT, OPEN, Claim, seen

from piflow_bench.config.compose import compose
from piflow_bench.errors import UserError
from piflow_bench.pipeline.stages.metrics import RARE

BLOCKS = 8


def rows(variant, values, metric="energy_distance", nfe=1, share=1.0, role="student", noise=0.01):
    """One row a seed; replicates of little noise that all variants share."""
    shared = np.random.default_rng(7).normal(0, noise / BLOCKS, BLOCKS)
    return [
        {"variant": variant, "metric": metric, "nfe": nfe, "budget_fraction": share, "role": role,
         "value": float(v), "train_seed": seed, "n": 3000, "replicates": (v + shared).tolist(),
         "question": "truth", "extractor": "points"}
        for seed, v in enumerate(values)
    ]  # fmt: skip


def normal(mean, n=10, seed=0, std=0.1):
    draws = np.random.default_rng(seed).normal(0, 1, n)
    return mean + std * (draws - draws.mean()) / draws.std()


def claim(kind, **more):
    return Claim("x", "y", "z", "run", kind, **{"a": "new", "b": "old", **more})


@pytest.mark.parametrize(
    "metric, new, old, verdict",
    [
        ("energy_distance", 1.0, 2.0, HELD),
        ("energy_distance", 2.0, 1.0, NOT),
        ("energy_distance", 1.0, 1.02, OPEN),
        ("recall", 0.9, 0.2, HELD),
        ("recall", 0.2, 0.9, NOT),
    ],
)
def test_a_difference_holds_where_its_interval_lies_on_its_side(metric, new, old, verdict):
    table = pd.DataFrame(
        rows("new", normal(new), metric) + rows("old", normal(old, seed=1), metric)
    )
    found = seen(claim("difference", metric=metric), table)
    assert found.verdict == verdict
    assert "10 trainings, n = 3,000 samples each, 1 NFE" in found.words and "[" in found.words


def test_an_end_of_an_interval_is_not_written_as_0_where_it_is_none():
    assert claims_page._told(-0.05, -0.0998, -0.0002) == "−0.0500 [−0.0998, −0.0002]"
    assert claims_page._told(-0.05, -0.11, 0.01) == "−0.05 [−0.11, 0.01]"
    assert claims_page._told(0.0, 0.0, 0.0) == "0.000 [0.000, 0.000]"


def test_rows_on_the_way_to_the_full_budget_say_nothing_of_a_difference():
    table = pd.DataFrame(
        rows("new", normal(1.0)) + rows("old", normal(2.0, seed=1))
        + rows("new", normal(9.0), share=0.5)
    )  # fmt: skip
    assert seen(claim("difference", metric="energy_distance"), table).verdict == HELD


@pytest.mark.parametrize("new, old, verdict", [(3, 14, HELD), (14, 3, NOT), (8, 10, OPEN)])
def test_lost_modes_are_counted_over_trainings(new, old, verdict):
    def modes(lost):
        return [3] * lost + [4] * (20 - lost)

    table = pd.DataFrame(
        rows("new", modes(new), "modes_covered") + rows("old", modes(old), "modes_covered")
        + rows("exact", [4], "modes_covered", role="control")
    )  # fmt: skip
    found = seen(claim("collapse"), table)
    assert found.verdict == verdict
    assert f"new {new} of 20 trainings [" in found.words and f"old {old} of 20" in found.words
    if verdict == HELD:
        assert "p = 0.0011" in found.words, "Fisher's exact test of 3 and 14 of 20"


SHARES = (0.25, 0.5, 1.0)


def course(*means):
    return pd.DataFrame(
        [row for share, mean in zip(SHARES, means, strict=True)
         for row in rows("new", normal(mean, 20, seed=int(100 * share)), share=share)]
    )  # fmt: skip


@pytest.mark.parametrize(
    "means, expected, verdict",
    [
        ((2.0, 1.0, 3.0), True, HELD),
        ((2.0, 1.0, 3.0), False, NOT),
        ((3.0, 2.0, 1.0), True, NOT),
        ((3.0, 2.0, 1.0), False, HELD),
        ((3.0, 1.0, 1.01), True, OPEN),
    ],
)
def test_a_decay_is_seen_by_seeds_that_did_not_choose_the_best(means, expected, verdict):
    found = seen(claim("decay", metric="energy_distance", expected=expected), course(*means))
    assert found.verdict == verdict
    assert "the other 10 trainings" in found.words, "half of them chose"


def test_what_is_flat_decays_in_few_cases_of_many():
    """The best of several equal checkpoints is chosen by other seeds than those it is judged by."""
    found = []
    for trial in range(200):
        draw = np.random.default_rng(trial)
        table = pd.DataFrame(
            [row for share in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
             for row in rows("new", 1 + 0.1 * draw.normal(size=20), share=share, noise=0.0)]
        )  # fmt: skip
        found.append(seen(claim("decay", metric="energy_distance"), table).verdict)
    assert found.count(HELD) <= 12 and found.count(NOT) <= 12, "2.5 % of each are expected"


@pytest.mark.parametrize(
    "means, verdict",
    [((4, 3, 2), HELD), ((4, 3, 3.5), NOT), ((4, 3, 3.01), OPEN)],
)
def test_more_evaluations_are_each_compared_with_fewer(means, verdict):
    table = pd.DataFrame(
        [row for nfe, mean in zip((1, 2, 4), means, strict=True)
         for row in rows("new", normal(mean, seed=nfe), "sliced_wasserstein", nfe)]
    )  # fmt: skip
    found = seen(claim("monotony", metric="sliced_wasserstein"), table)
    assert found.verdict == verdict
    assert "1 to 2 NFE" in found.words and "2 to 4 NFE" in found.words


def doublings(*changes, trainings=20):
    """Errors of trainings whose mean moves by so many standard errors at every doubling."""
    values, tables = np.full(trainings, 10.0), []
    for at, change in enumerate((0.0, *changes)):
        draws = np.random.default_rng(at).normal(size=trainings)
        draws = (draws - draws.mean()) / draws.std(ddof=1)
        values = values + draws + change / trainings**0.5
        tables += rows("new", values, "energy_distance", 2**at, noise=0.0)
    return pd.DataFrame(tables)


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ((-4, -4, -4, -4, -4), HELD),
        ((-4, -4, -4, -4, -1), OPEN),
        ((-4, -4, -4, -4, 2.5), OPEN),  # Beyond 95 %, and not beyond Bonferroni's of five.
        ((-4, -4, -4, -4, 3.5), NOT),
        ((3.5, -4, -4, -4, -4), NOT),
    ],
)
def test_of_five_doublings_one_that_is_worse_beyond_chance_is_enough(changes, verdict):
    """Of 20 trainings 2.5 standard errors are outside 95 % (2.09) and inside 99 % (2.86)."""
    told = claim("monotony", metric="energy_distance")
    found = seen(told, doublings(*changes))
    assert found.verdict == verdict and "16 to 32 NFE" in found.words
    turned = claim("monotony", metric="energy_distance", expected=False)
    opposite = {HELD: NOT, NOT: HELD, OPEN: OPEN}
    assert seen(turned, doublings(*changes)).verdict == opposite[verdict]


def test_what_stays_the_same_is_seldom_told_to_fall_or_to_rise():
    found = []
    for trial in range(200):
        draw = np.random.default_rng(trial)
        table = pd.DataFrame(
            [row for nfe in (1, 2, 4, 8, 16, 32)
             for row in rows("new", 1 + 0.1 * draw.normal(size=10), nfe=nfe, noise=0.0)]
        )  # fmt: skip
        found.append(seen(claim("monotony", metric="energy_distance"), table).verdict)
    assert found.count(HELD) == 0, "all five doublings would have to be better by chance"
    assert found.count(NOT) <= 12, "2.5 % are expected; without a correction it were 11 %"


def kept(*means, std=0.05, trainings=10):
    """Shares of rare modes over the true ones, at 1, 2, 4 evaluations."""
    return pd.DataFrame(
        [row for at, mean in enumerate(means)
         for row in rows("new", normal(mean, trainings, at, std), "rare_mode_share", 2**at)]
    )  # fmt: skip


@pytest.mark.parametrize(
    "means, verdict",
    [
        ((0.2, 0.4, 0.8), HELD),
        ((0.2, 0.4, 0.89), OPEN),
        ((0.2, 0.4, 1.0), NOT),
        ((1.0, 0.4, 0.2), NOT),
        ((1.0, 1.0, 1.0), NOT),
        ((0.9, 0.9, 0.9), OPEN),
        ((1.4, 1.4, 1.4), NOT),
    ],
)
def test_what_is_lost_lies_below_the_bar_at_every_number_of_evaluations(means, verdict):
    found = seen(claim("lost", metric="rare_mode_share", bar=0.9), kept(*means))
    assert found.verdict == verdict
    assert all(f"] at {nfe}" in found.words for nfe in (1, 2, 4))
    assert "against 0.9 (10 trainings, n = 3,000 samples each)" in found.words


def test_what_is_lost_is_against_its_own_bar():
    table = kept(0.2, 0.4, 0.8)
    assert seen(claim("lost", metric="rare_mode_share", bar=0.5), table).verdict == NOT
    assert seen(claim("lost", metric="rare_mode_share", bar=0.78), table).verdict == OPEN


def test_nothing_is_told_lost_at_the_bar_more_often_than_an_interval_allows():
    """The noise of sampling that trainings share is in the interval, and that of training."""
    found = []
    for trial in range(200):
        draw = np.random.default_rng(trial)
        blocks = draw.normal(0.9, 0.05 * 8**0.5, BLOCKS)
        left = (blocks.sum() - blocks) / (BLOCKS - 1)
        values = blocks.mean() + 0.05 * draw.normal(size=10)
        table = pd.DataFrame(
            [row | {"replicates": (row["value"] + left - left.mean()).tolist()}
             for row in rows("new", values, "rare_mode_share")]
        )  # fmt: skip
        told = claim("lost", metric="rare_mode_share", bar=0.9)
        found.append(seen(told, table).verdict)
    assert found.count(HELD) <= 14 and found.count(NOT) <= 14, "2.5 % of each are expected"


def test_what_closed_forms_say_stands_below_what_was_seen(tmp_path):
    folder = tmp_path / "claims"
    (folder / "there").mkdir(parents=True)
    entry = {"claim": "C", "source": "S", "settings": "our version", "run": "there",
             "kind": "lost", "a": "new", "metric": "rare_mode_share", "bar": 0.9}  # fmt: skip
    told = [entry, entry | {"why": "Its optimum is another."}]
    (folder / "claims.yaml").write_text(yaml.safe_dump(told))
    kept(0.2, 0.4, 0.8).to_parquet(folder / "there" / "results.parquet")
    (folder / "there" / "run.json").write_text("{}")
    first, second = claims_page.page(folder).split("## ")[1:]
    assert "another" not in first and "each).\n\nIts optimum is another." in second


def test_what_was_not_run_is_said_and_what_lacks_rows_is_an_error(tmp_path):
    entries = [
        {"claim": "C1", "source": "S", "settings": "our version", "run": name, "kind": "difference",
         "a": "new", "b": "old", "metric": "energy_distance"}
        for name in ("there", "missing")
    ]  # fmt: skip
    folder = tmp_path / "claims"
    (folder / "there").mkdir(parents=True)
    (folder / "claims.yaml").write_text(yaml.safe_dump(entries))
    table = pd.DataFrame(rows("new", normal(1.0)) + rows("old", normal(2.0, seed=1)))
    table.to_parquet(folder / "there" / "results.parquet")
    (folder / "there" / "run.json").write_text(json.dumps({"command": "run it"}))
    text = claims_page.page(folder)
    assert "## 1. held" in text and "## 2. not run" in text and "`run it`" in text
    table[table.variant == "new"].to_parquet(folder / "there" / "results.parquet")
    with pytest.raises(UserError, match="old at 1 NFE: no energy_distance"):
        claims_page.page(folder)


def test_every_claim_is_of_an_experiment_that_has_its_variants():
    from tests.test_docs import ROOT

    claims = claims_page.read_claims(ROOT / "docs" / "results" / "claims")
    known = {config.name: config for config in compose(["experiment=claims"])}
    for each in claims:
        config = known[each.run]
        names = config.only or list(config.variants)
        assert {each.a, *([each.b] if each.b else [])} <= set(names), each
        assert each.kind in ("monotony", "lost") or each.nfe in config.nfes
        measured = {*config.protocol.metrics, config.protocol.agreement, RARE}
        assert not each.metric or each.metric in measured
        assert (each.kind == "lost") == (each.bar > 0)
        if each.kind == "collapse":
            assert len(config.train_seeds) == 20
    assert {each.run for each in claims} == set(known)
