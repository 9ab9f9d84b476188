"""The file of chosen settings: read by an experiment, and what is no such file."""

import pytest

from piflow_bench.config.compose import compose
from piflow_bench.config.tuned import Tuned, read_tuned, write_tuned
from piflow_bench.errors import UserError
from piflow_bench.pipeline.plan import make_plan

KD = {"schedule": "cosine", "pair_steps": 12}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tuned.yaml"
    chosen = {
        "kd": Tuned({"lr": 0.003}, {"4": {"lr": 0.001}}, KD, "best of 8 trials"),
        "of another": Tuned({"lr": 1.0}, tuning="x"),
    }
    write_tuned(path, "tune x", chosen)
    assert read_tuned(str(path)).variants == chosen
    return path


def kd(*settings):
    (config,) = compose(["only=[kd]", *settings])
    return config.variants["kd"], make_plan(config)


def trained(plan):
    return {s.task.train_nfe: s.task.content["settings"]["lr"]
            for s in plan.stages if s.kind == "distill" and "-split" not in s.label}  # fmt: skip


def test_chosen_settings_stand_where_a_variant_states_none(file):
    entry, plan = kd(f"tuned={file}")
    assert entry.settings == {**KD, "lr": 0.003} and entry.tuning == "best of 8 trials"
    assert trained(plan) == {1: 0.003, 4: 0.001}
    assert kd(f"tuned={file.parent}")[0] == entry, "the folder of a run of trials will do"


def test_what_the_variant_states_wins_and_the_words_say_so(file):
    entry, plan = kd(f"tuned={file}", "variants.kd.settings.lr=0.5")
    assert entry.settings["lr"] == 0.5 and set(trained(plan).values()) == {0.5}
    assert entry.tuning == "best of 8 trials; there with another lr"
    entry, _ = kd(f"tuned={file}", "variants.kd.settings.pair_steps=6")
    assert "another pair_steps" in entry.tuning and entry.settings["lr"] == 0.003


def test_what_it_states_at_one_nfe_wins_there_and_the_rest_stays(file):
    entry, plan = kd(f"tuned={file}", "variants.kd.settings_at.4.pair_steps=6")
    assert entry.settings_at == {"4": {"lr": 0.001, "pair_steps": 6}}
    assert trained(plan) == {1: 0.003, 4: 0.001}
    assert entry.tuning == "best of 8 trials; there with another pair_steps at 4 NFE"
    own = "variants.kd.settings_at.4.lr=0.25"
    entry, plan = kd(f"tuned={file}", own, "variants.kd.settings.lr=0.5")
    assert trained(plan) == {1: 0.5, 4: 0.25}
    assert "another lr, another lr at 4 NFE" in entry.tuning
    entry, _ = kd(f"tuned={file}", "variants.kd.settings_at={4: {lr: 0.001}}")
    assert entry.tuning == "best of 8 trials", "the same as chosen"


def test_a_setting_at_one_nfe_is_given_by_its_path_as_any_other():
    at = "variants.kd.settings_at.4"
    _, plan = kd("tuned=null", f"{at}.lr=0.5", f"{at}.pair_steps=6")
    assert trained(plan) == {1: 1e-4, 4: 0.5}
    swept = compose(["only=[kd]", "tuned=null", f"{at}.lr=0.5,0.25"])
    assert [config.variants["kd"].settings_at for config in swept] == [
        {"4": {"lr": 0.5}},
        {"4": {"lr": 0.25}},
    ]
    assert len({config.name for config in swept}) == 2
    (config,) = compose(["only=[kd]", f"{at}={{lr: 0.5}}", f"title='of {at}.lr=0.5'"])
    assert config.variants["kd"].settings_at["4"]["lr"] == 0.5
    assert config.title == f"of {at}.lr=0.5"
    (config,) = compose(["only=[kd]", f"{at}.lrr=0.5"])
    with pytest.raises(UserError, match="settings_at.4.lrr: no such setting; did you mean 'lr'"):
        make_plan(config)


def test_published_recipes_are_had_by_leaving_it_out():
    entry, plan = kd("tuned=null")
    assert entry.settings == KD and entry.tuning == ""
    assert trained(plan) == {1: 1e-4, 4: 1e-4}


@pytest.mark.parametrize(
    "text, words",
    [
        ("variants: [1]", "says nothing of variants"),
        ("- 1", "says nothing of variants"),
        ("a: [", "is no YAML"),
        ("variants: {kd: 3}", "variants.kd: must hold settings"),
        ("variants: {kd: {setings: {}}}", "setings: no such setting; did you mean 'settings'"),
        ("variants: {dk: {settings: {lr: 1}}}", "is of dk, none of which the experiment has"),
        ("variants: {kd: {settings: {rl: 1}}}", "variants.kd.settings.rl: no such setting"),
        ("variants: {kd: {settings_at: {x: {lr: 1}}}}", "settings_at.x"),
        ("variants: {kd: {settings_at: {4: 3}}}", "variants.kd.settings_at.4: must hold settings"),
        ("variants: {kd: {settings_at: {4: {lr: -1}}}}", "settings_at.4.lr=-1: must be at least 0"),
    ],
)
def test_what_is_no_such_file_is_one_line(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        kd(f"tuned={path}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        kd(f"tuned={tmp_path / 'x.yaml'}")
    with pytest.raises(UserError, match="has no tuned.yaml"):
        kd(f"tuned={tmp_path}")


@pytest.mark.parametrize(
    "setting, words",
    [
        ("variants.meanflow.settings_at={4: {lr: 1e-4}}", "one training serves all NFEs"),
        ("variants.teacher-euler.settings_at={4: {solver: heun}}", "trains nothing"),
        ("variants.dmd2.settings_at={4: {gan: false}}", "makes another method of it"),
        ("variants.dmd2.settings_at={4: 3}", "must be settings by NFE"),
    ],
)
def test_settings_at_one_nfe_are_of_a_training_for_it(setting, words):
    (config,) = compose([setting])
    with pytest.raises(UserError, match=words):
        make_plan(config)
