"""Variants: settings, NFEs and budgets of every entry, twins, and what is refused in one line."""

from dataclasses import replace

import pytest

from piflow_bench.config.schema import FamilyConfig, StudentConfig, VariantConfig
from piflow_bench.contracts.teacher import Guidance
from piflow_bench.errors import UserError
from piflow_bench.pipeline.plan.variants import check_samplings, variants_of
from piflow_bench.tracks import ONE_BUDGET
from piflow_bench.training.settings import Budget, TrainingSettings
from tests.pipeline.plan import made

KD = VariantConfig("kd")
MEANFLOW = VariantConfig("meanflow", settings={"distill": True})
SOLVER = VariantConfig("teacher")


def entered(others=None, **variants):
    """The variants by name, of an experiment of these entries and ``others`` of its fields."""
    given = {"training": TrainingSettings(batch=16), "budget": Budget(amount=120.0)}
    names = {name.replace("_", "-"): entry for name, entry in variants.items()}
    config = made.config(variants=names, **{**given, **(others or {})})
    return {v.name: v for v in variants_of(config)}


def test_a_variant_has_the_experiments_settings_but_for_its_own():
    own = VariantConfig(
        "kd", settings={"lr": 0.125}, training={"batch": 8, "ema": {"gamma": 2.0}},
        budget={"amount": 7.0},
    )  # fmt: skip
    found = entered(mine=own, other=KD)
    mine, other = found["mine"], found["other"]
    assert mine.settings["lr"] == mine.method.config.lr == 0.125
    assert mine.settings.keys() == other.settings.keys()
    assert mine.training == {**other.training, "batch": 8,
                             "ema": {**other.training["ema"], "gamma": 2.0}}  # fmt: skip
    assert (mine.budget["amount"], other.budget["amount"]) == (7.0, 120.0)
    assert mine.budget["batch"] == other.budget["batch"] == 16, "one unit for all"
    assert entered({"budget": Budget(batch=4)}, mine=own)["mine"].budget["batch"] == 4


def test_a_method_says_of_its_student_what_is_in_keys():
    mine = entered(mine=KD)["mine"]
    assert mine.student(None) == {"method": "kd", "version": mine.facts.version,
                            "settings": mine.settings, "source": None}  # fmt: skip
    assert mine.source and not mine.from_file and mine.role == "student"
    assert entered(euler=SOLVER)["euler"].role == "teacher"


def test_lists_of_sampling_are_every_combination():
    mine = made.variant(config=VariantConfig("kd", sampling={"a": [1, 2], "b": 3, "c": (4, 5)}))
    assert mine.samplings == [{"a": a, "b": 3, "c": c} for a in (1, 2) for c in (4, 5)]
    assert made.variant().samplings == [{}]


def test_whoever_is_entered_nowhere_is_left_out():
    found = entered({"nfes": [1, 2]}, mine=VariantConfig("kd", nfes=[2, 8]),
                    none=VariantConfig("kd", nfes=[8]))  # fmt: skip
    assert {name: v.nfes for name, v in found.items()} == {"mine": [2]}


def test_the_chosen_ones_alone():
    assert set(entered({"only": ["two"]}, one=KD, two=KD)) == {"two"}


def test_a_twin_repeats_the_first_that_trains_under_another_seed():
    own = VariantConfig("kd", seed_offset=5)
    found = entered({"aa": True, "split_budget": False}, euler=SOLVER, mine=own, other=KD)
    assert set(found) == {"euler", "mine", "other", "mine-aa"}
    twin = found["mine-aa"]
    assert (twin.base, twin.config.seed_offset) == ("mine", 1005)
    assert (twin.settings, twin.budget) == (found["mine"].settings, found["mine"].budget)
    assert set(entered({"aa": True}, euler=SOLVER)) == {"euler"}


def test_specialists_share_the_budget_of_one_elastic_training():
    found = entered({"nfes": [1, 2, 4]}, kd=KD, meanflow=MEANFLOW, euler=SOLVER)
    split = found["kd-split"]
    assert set(found) == {"kd", "meanflow", "euler", "kd-split"}
    assert (split.shares, split.base, split.nfes) == (3, "kd", [1, 2, 4])
    assert split.budget["amount"] == 40.0 and split.budget["checkpoints"] == [1.0]
    assert split.facts.track == ONE_BUDGET and split.config.tuning == "settings of kd"
    assert found["kd"].shares == 1 and found["kd"].budget["amount"] == 120.0


def test_published_weights_share_nothing():
    only = {"student": StudentConfig("x"), "only": ["meanflow"]}
    assert set(entered(only, kd=KD, meanflow=MEANFLOW)) == {"meanflow"}


REFUSED = [
    ({}, {}, "variants: the experiment has none"),
    ({"nfes": [1]}, {"a": VariantConfig("kd", nfes=[2])},
     "nfes=[1]: no chosen variant is entered there; a: [2]"),
    ({}, {"a": VariantConfig("kdd")}, "no method is called 'kdd'; did you mean 'kd'?"),
    ({}, {"a": VariantConfig("kd", settings={"lt": 1})}, "variants.a.settings.lt"),
    ({}, {"a": VariantConfig("kd", sampling={"heat": 1})},
     "variants.a.sampling.heat: no such sampling setting of kd"),
    ({}, {"a": VariantConfig("kd", training={"bach": 1})}, "variants.a.training.bach"),
    ({}, {"a": VariantConfig("kd", budget={"amount": -1})}, "variants.a.budget.amount=-1"),
    ({"nfes": [1, 2]}, {"a": VariantConfig("teacher", settings={"guided": True})},
     "variants.a: cannot do NFE 1: teacher spends two evaluations a guided step, so it serves "
     "even NFEs; set variants.a.nfes=[2]"),
    ({"nfes": [1]}, {"a": VariantConfig("teacher", settings={"guided": True})},
     "so it serves even NFEs; set variants.a.nfes or nfes"),
    ({"family": FamilyConfig("a")}, {"a": SOLVER, "b": KD},
     "family.leader=a: trains nothing, so no student is compared with it; name one of b"),
    ({"family": FamilyConfig(entries={"1": ["a", "b"]})}, {"a": SOLVER, "b": KD},
     "family.entries.1=a: trains nothing, so no student is compared with it; name one of b"),
    ({"family": FamilyConfig("a")}, {"a": SOLVER}, "name one of the trained variants"),
    ({"student": StudentConfig("x")}, {"a": KD, "b": KD},
     "student.checkpoint: needs the one variant whose weights it holds, not a, b; name it (and "
     "the teacher's rows) with only=[NAME,...]"),
    ({"student": StudentConfig("x")}, {"a": SOLVER}, "whose weights it holds, not none; name it"),
    ({"aa": True}, {"a": KD, "a_aa": KD},
     "aa=true: enters a again as a-aa, a variant that the experiment has; name that one otherwise"),
    ({}, {"kd": KD, "kd_split": KD, "m": MEANFLOW},
     "split_budget=true: enters kd again as kd-split, a variant that the experiment has; name "
     "that one otherwise"),
]  # fmt: skip


@pytest.mark.parametrize("others, variants, words", REFUSED, ids=[r[2][:30] for r in REFUSED])
def test_a_mistake_is_one_line_with_its_fix(others, variants, words):
    with pytest.raises(UserError) as error:
        entered(others, **variants)
    assert words in str(error.value) and "\n" not in str(error.value)


IMF = VariantConfig("imf", settings={"guidance_most": 4.0})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            replace(IMF, sampling={"guidance": [2, 4.5], "shift": 1.5}),
            "variants.mine: cannot sample at NFE 1, guidance=4.5, shift=1.5: guidance=4.5: scales",
        ),
        (
            VariantConfig("teacher", nfes=[2], settings={"guided": True}),
            "variants.mine: cannot sample at NFE 2: no number of euler steps",
        ),
        (
            VariantConfig("piflow", sampling={"temperature": 0.5},
                          settings_at={2: {"policy": "dx-grid"}}),
            "variants.mine: cannot sample at NFE 2, temperature=0.5: temperature is of policy=gm",
        ),
    ],
)  # fmt: skip
def test_a_way_that_a_student_or_the_teachers_guidance_forbids_is_one_line(entry, words):
    variants = list(entered({"nfes": [1, 2]}, fine=KD, mine=entry).values())
    with pytest.raises(UserError) as error:
        check_samplings(variants, Guidance(2.0, 0.0, 0.5))
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_ways_that_all_can_be_sampled_pass():
    own = replace(IMF, sampling={"guidance": [1, 4]}, settings={"guidance_most": 4.0})
    solver = VariantConfig("teacher", nfes=[2], settings={"guided": True})
    variants = entered({"nfes": [1, 2]}, fine=KD, mine=own, solver=solver)
    check_samplings(list(variants.values()), Guidance(2.0))
