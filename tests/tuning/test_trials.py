"""The experiment of trials: as many for each, alike in compute, and apart from all results."""

from pathlib import Path

import piflow_experiments
import pytest
import yaml

from piflow_bench.config.compose import compose
from piflow_bench.errors import UserError
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.tuning.compose import compose_trials

CHOSEN = Path(piflow_experiments.__file__).parent / "chosen"
DRAWN = ("distill", "sample", "converged", "features")
EXPERIMENTS = ("digits", "digits_full", "analytic_mixture2d")


def trials(*settings):
    (config,) = compose_trials(settings)
    return config


def of(config, variant):
    return {n: v for n, v in config.variants.items() if v.trial_of == variant}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_nothing_that_results_are_drawn_from_is_in_a_trial(name):
    experiment = f"experiment={name}"
    (results,) = compose([experiment, "aa=true"])
    tuned = trials(experiment, "trials=3")
    seeds = {s + v.seed_offset for s in results.train_seeds for v in results.variants.values()}
    seeds |= {s + 1000 for s in seeds}  # A/A twins.
    assert seeds.isdisjoint(s + v.seed_offset for s in tuned.train_seeds
                            for v in tuned.variants.values())  # fmt: skip
    assert results.sample_seed != tuned.sample_seed
    assert len({results.protocol.reference_seed, tuned.protocol.reference_seed,
                results.sample_seed, tuned.sample_seed}) == 4  # fmt: skip
    made = [
        {stage.key for stage in make_plan(config).stages if stage.kind in DRAWN}
        for config in (results, tuned)
    ]
    assert made[1] and made[0].isdisjoint(made[1])


def test_spaces_of_any_size_get_the_same_trials_and_the_same_compute():
    tuned = trials("experiment=digits_full", "trials=5", "share=0.25")
    plan = make_plan(tuned)
    counts, spent = {}, {}
    for variant in plan.variants:
        counts.setdefault(variant.config.trial_of, []).append(variant.name)
        spent.setdefault(variant.config.trial_of, set()).add(variant.budget["amount"])
    (whole,) = compose(["experiment=digits_full"])
    trained = {n for n, v in whole.variants.items() if v.method != "teacher"}
    assert set(counts) == trained
    assert {len(names) for names in counts.values()} == {5}
    own = {n: v.budget.get("amount", whole.budget.amount) for n, v in whole.variants.items()}
    assert spent == {name: {own[name] / 4} for name in counts}
    sizes = [{len(v.settings) for v in of(tuned, name).values()} for name in ("kd", "meanflow")]
    assert [max(own) - min(own) for own in sizes] == [2, 6]


def test_the_first_trial_is_the_published_recipe():
    tuned = trials("experiment=digits", "trials=2")
    plan = {v.name: v for v in make_plan(tuned).variants}
    first = plan["dmd2-t0"].settings
    assert (first["lr"], first["fake_lr"], first["ratio"]) == (2e-6, 2e-6, 5)
    assert first["time_law"] == "karras" and first["schedule"] == "cosine", "stated: stays"
    assert plan["dmd2-t1"].settings["lr"] != 2e-6
    (results,) = compose(["experiment=digits"])
    assert make_plan(results).variants, "chosen settings are read there"
    chosen = yaml.safe_load((CHOSEN / "digits.yaml").read_text())["variants"]["dmd2"]["settings"]
    assert results.variants["dmd2"].settings["lr"] == chosen["lr"] != 2e-6


def test_trials_are_sampled_at_the_least_nfe_or_at_all():
    few = trials("experiment=digits_full", "trials=2", "only=[kd,dmd2-nogan]")
    assert few.nfes == [1] and {tuple(v.nfes) for v in few.variants.values()} == {(1,)}
    every = trials("experiment=digits_full", "trials=2", "only=[kd]", "per_nfe=true")
    assert every.nfes == [1, 2, 4]
    assert len([s for s in make_plan(every).stages if s.kind == "distill"]) == 6


def test_what_the_command_line_states_is_not_looked_for():
    tuned = trials("experiment=digits", "trials=3", "only=[kd]", "variants.kd.settings.lr=0.001")
    assert {v.settings["lr"] for v in tuned.variants.values()} == {0.001}
    assert len({v.settings.get("pair_share") for v in tuned.variants.values()}) == 3


def test_held_out_data_decide_nothing():
    tuned = trials("experiment=digits", "trials=2", "protocol.primary_question=data")
    assert tuned.protocol.questions == ["imitation"]
    asked = {s.task.content["question"] for s in make_plan(tuned).stages if s.kind == "metrics"}
    assert asked == {"imitation"}
    truth = trials("experiment=analytic_mixture2d", "trials=2")
    assert truth.protocol.questions == ["truth"], "exact samples can be drawn anew"


def test_one_way_of_sampling_is_tried():
    tuned = trials("experiment=digits", "trials=2", "only=[piflow-gm8]",
                   "variants.piflow-gm8.sampling={temperature: [0.5, 1.0]}")  # fmt: skip
    assert {v.sampling["temperature"] for v in tuned.variants.values()} == {0.5}


@pytest.mark.parametrize(
    "settings, words",
    [
        (("only=[kd]", "variants.kd-t1.method=kd"), "kd-t1 is a variant already"),
        (("only=[kd]", "student.checkpoint=x.safetensors"), "none of kd is trained"),
        (("only=[teacher-euler]",), "none of teacher-euler is trained"),
        (("only=[kd]", "variants.kd.settings={lr: 1.0, pair_share: 0.5}"), "state every setting"),
        (("trials=1",), "trials=1: must be at least 2"),
        (("share=0",), "share=0"),
        (("trails=3",), "trails: no such setting"),
        (("tuned=x.yaml",), "trials begin with the published recipes"),
        (("search.lr=[-1,1]",), r"search.lr=\[-1,1\]: must be above 0"),
        (("search.pair_share=[0.5,1.5]",), "variants.kd.settings.pair_share"),
        (("search.rl=[1,2]",), "no variant's trials look for rl"),
        (("search.lr=[1e-4]",), r"search.lr=\[0.0001\]: must be two numbers"),
        (("search.lr=3",), "search.lr=3: must be two numbers"),
        (("search.jvp=[1,2]",), "is one of exact, finite-difference"),
    ],
)
def test_what_cannot_be_tried_is_one_line(settings, words):
    with pytest.raises(UserError, match=words):
        trials("experiment=digits", *settings)


def test_a_range_that_is_for_others_is_no_mistake():
    tuned = trials("experiment=digits", "only=[kd]", "trials=2", "search.fake_lr=[1e-5,1e-4]")
    assert set(of(tuned, "kd")) == {"kd-t0", "kd-t1"}
