"""`check`: passes for every built-in method, and names what is wrong with bad plugins."""

from pathlib import Path

import pytest
from piflow_methods.imm import IMM

import piflow_bench.conformance.results as check
from piflow_bench.cli import main
from piflow_bench.conformance.method.suite import check_method
from piflow_bench.conformance.method.trial import Trial
from piflow_bench.conformance.stand_ins import points
from piflow_bench.errors import CHECK_FAILED, UserError
from piflow_bench.errors import OK as EXIT_OK
from piflow_bench.settings import nested

PLUGINS = str(Path(__file__).parents[2] / "plugins")

BUILT_IN = [
    ("teacher", []),
    ("piflow", ["policy=gm", "substeps=16"]),
    ("piflow", ["policy=dx-grid", "substeps=16"]),
    ("piflow", ["data_free=true", "substeps=16"]),
    ("meanflow", []),
    ("dmd2", []),
    ("kd", []),
]

IMAGE, POINTS = "images: ", "points: "
BAD = [
    # plugin, failed test, part of its reason
    ("raises_in_training", "training step", "RuntimeError: this step is broken on purpose"),
    ("wrong_shape", "samples", "sample(nfe=1) returned shape (4, 15), expected (4, 1, 4, 4)"),
    ("hidden_call", "honest NFE", "a network is called outside self.network"),
    ("wrong_count", "honest NFE", "sample(nfe=1) evaluated its network 2 times per sample"),
    ("trains_teacher", "teacher untouched by build", "teacher's parameters require gradient"),
    ("leaks_to_teacher", "gradients", "sends gradient to the teacher"),
    ("changes_teacher", "gradients", "training changes the teacher's weights"),
    ("unseeded", "determinism", "two runs of one seed differ"),
    ("unseeded_samples", "reproducible samples", "gives other samples when called again"),
    ("batch_statistics", "reproducible samples", "depends on the batch size"),
    ("undeclared_noise", "reproducible samples", "facts.stochastic is False"),
    ("sum_loss", "division of a batch", "changes by 50.0%"),
    ("loses_state", "save, load, resume", "is lost"),
    ("false_facts", "declared needs", "facts.auxiliary is []"),
    ("unreached", "gradients", "no gradient reaches 'head'"),
]


def failures(results):
    return {r.test: r.reason for r in results if r.status == check.FAILED}


MORE = [
    ("teacher", ["solver=heun", "guided=true"]),
    ("piflow", ["policy=dx-polynomial", "substeps=16"]),
    ("piflow", ["policy=arc", "substeps=16"]),
    ("piflow", ["h=0.5", "substeps=16"]),
    ("meanflow", ["jvp=finite-difference"]),
    ("meanflow", ["distill=false"]),
    ("dmd2", ["gan=false"]),
    ("dmd2", ["regression_weight=0.25"]),
]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [*BUILT_IN, *(pytest.param(*each, marks=pytest.mark.thorough) for each in MORE)],
    ids=lambda v: v if v else "",
)
def test_built_in_methods_pass(name, overrides):
    results = check_method(name, overrides, None)
    assert failures(results) == {}
    # Only methods that fill a buffer as they go may skip a test.
    skipped = {r.test.split(": ")[1] for r in results if r.status == check.SKIPPED}
    assert skipped <= ({"division of a batch"} if name in ("kd", "dmd2") else set())


@pytest.fixture
def results(monkeypatch):
    """What `check` prints, kept."""
    kept = []
    shown = check.print_checks

    def keep(name, found):
        kept.extend(found)
        return shown(name, found)

    monkeypatch.setattr(check, "print_checks", keep)
    return kept


@pytest.mark.parametrize(("name", "test", "reason"), BAD, ids=[b[0] for b in BAD])
def test_bad_plugins_are_named(name, test, reason, results, capsys):
    assert main(["check", name, f"plugins={PLUGINS}"]) == CHECK_FAILED
    failed = failures(results)
    assert reason in failed[IMAGE + test]
    assert POINTS + test in failed
    assert test in capsys.readouterr().out
    # What does not depend on the fault still passes.
    passed = {r.test for r in results if r.status == check.OK}
    assert {"loads", IMAGE + "build", POINTS + "build"} <= passed


BFLOAT16 = [
    ("mixes_precisions", "bfloat16 training", "dtypes match", "(mixes_precisions.py:11)"),
    ("rounds_samples", "bfloat16 samples", "returned torch.bfloat16 for float32 noise", ""),
]


@pytest.mark.parametrize(("name", "test", "reason", "line"), BFLOAT16, ids=[b[0] for b in BFLOAT16])
def test_what_fails_in_bfloat16_alone_is_found_there_alone(name, test, reason, line):
    failed = failures(check_method(name, [], PLUGINS))
    assert set(failed) == {IMAGE + test, POINTS + test}
    assert all(reason in found and line in found for found in failed.values())


def test_a_plugin_that_cannot_be_imported_fails_to_load(results):
    assert main(["check", "raises_at_import", f"plugins={PLUGINS}"]) == CHECK_FAILED
    reason = failures(results)["loads"]
    assert "RuntimeError: this plugin is broken on purpose (raises_at_import.py:1)" in reason
    assert {r.status for r in results[1:]} == {check.SKIPPED}


def test_the_correct_base_of_the_bad_plugins_passes(tmp_path):
    text = Path(PLUGINS, "_base.py").read_text()
    (tmp_path / "base.py").write_text(text)
    assert main(["check", "base", f"plugins={tmp_path}"]) == EXIT_OK


def test_what_cannot_run_is_skipped_with_its_reason(tmp_path):
    results = check_method("raises_in_training", [], PLUGINS)
    skipped = {r.test: r.reason for r in results if r.status == check.SKIPPED}
    assert skipped[IMAGE + "gradients"] == "needs 'training step'"
    assert "(raises_in_training.py:6)" in failures(results)[IMAGE + "training step"]


def test_wrong_declarations_fail_to_load(tmp_path):
    source = Path(PLUGINS, "_base.py").read_text()
    cases = {
        "track": (
            source.replace('family="test"', 'family="test", track="distiled"'),
            "facts.track is 'distiled'",
        ),
        "default": (source.replace("lr: float = 1e-3", "lr: float"), "Config.lr has no default"),
        "group": (
            source.replace("elastic=True", "elastic=True, group=0"),
            "facts.group is 0: must be a positive integer",
        ),
        "fact": (source.replace("elastic=True", "elastic=1"), "facts.elastic is 1: must be bool"),
    }
    for name, (text, reason) in cases.items():
        (tmp_path / f"{name}.py").write_text(text)
        results = check_method(name, [], str(tmp_path))
        assert reason in failures(results)["loads"]


@pytest.mark.parametrize("particles, batch", [(1, 8), (2, 8), (3, 12), (8, 16)])
def test_a_trial_has_two_halves_of_whole_groups(particles, batch):
    """Groups of 3 and of 8 would be torn by halves of 4 rows."""
    trial = Trial(IMM, IMM.Config(particles=particles), points())
    assert trial.batch == batch
    whole, halves = trial.trainer(), trial.trainer(micro_batch=batch // 2)
    assert (whole.parts, whole.part_rows) == (1, batch)
    assert (halves.parts, halves.part_rows) == (2, batch // 2)


def test_names_that_do_not_fit_together_fail_the_build(tmp_path):
    text = Path(PLUGINS, "_base.py").read_text()
    (tmp_path / "misspelt.py").write_text(text.replace('(("student",)', '(("studnet",)'))
    results = check_method("misspelt", [], str(tmp_path))
    assert "names module 'studnet'; did you mean 'student'?" in failures(results)[IMAGE + "build"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("x = flow.interpolate(batch.x0, noise, t)", "x = noise", "other data give the same"),
        ("elastic=True", "elastic=True, needs_teacher=False, track='from scratch'", "is evaluated"),
        (
            "target = context.teacher(x, t, batch.condition)",
            "target = context.jvp(lambda y: context.networks['student'](y, t, batch.condition), "
            "(x,), (x,))[1]",
            "differentiated in forward mode",
        ),
        (
            "needs_data=True",
            "needs_data=True, reward='class-probe'",
            "another reward gives the same training",
        ),
        (
            "x = flow.interpolate(batch.x0, noise, t)",
            "x = flow.interpolate(batch.x0, noise, t) + context.reward(noise, None).mean()",
            "the method's facts name no reward",
        ),
        ("needs_data=True", "needs_data=False", "'NoneType' object has no attribute"),
    ],
    ids=["data", "teacher", "jvp", "reward", "no reward", "no data"],
)
def test_false_needs_are_named(tmp_path, old, new, reason):
    text = Path(PLUGINS, "_base.py").read_text()
    assert old in text
    (tmp_path / "liar.py").write_text(text.replace(old, new))
    failed = failures(check_method("liar", [], str(tmp_path)))
    assert reason in failed.get(IMAGE + "declared needs", failed.get(IMAGE + "training step"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kb", [], None), "no method is called 'kb'"),
        (("kd", ["pair=3"], None), "kd.pair: no such setting; did you mean 'pairs'?"),
        (("kd", ["lr=fast"], None), "kd.lr=fast: must be float"),
        (("kd", ["pairs=0"], None), "kd.pairs=0: must be at least 1"),
        (("dollar", ["reward=class-prob"], None), "no reward is called 'class-prob'"),
        (("kd", ["pairs=[1"], None), "pairs=[1: not readable"),
        (("kd", [], "/nowhere"), "no such file or folder"),
    ],
)
def test_the_users_mistakes_are_user_errors(arguments, message):
    with pytest.raises(UserError) as caught:
        check_method(*arguments)
    assert message in str(caught.value)


def test_settings_are_read_as_hydra_does():
    read = nested(["lr=1e-4", "gan=false", "a.b=[1, 2]", "name=gm", "x=null"])
    assert read == {"lr": 1e-4, "gan": False, "a": {"b": [1, 2]}, "name": "gm", "x": None}


def test_reasons_are_printed_literally(capsys):
    results = [check.CheckResult("loads", check.FAILED, "[bold]not markup[/bold] [0, 1]")]
    assert not check.print_checks("[red]x", results)
    out = capsys.readouterr().out
    assert "[bold]not markup" in out and "[red]x" in out
    assert check.print_checks("x", [check.CheckResult("loads", check.OK)])
