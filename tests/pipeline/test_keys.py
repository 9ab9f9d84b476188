"""Keys: golden ones of every shipped experiment, and what changes which kinds of stage."""

import json
from dataclasses import fields, replace

import pytest

from piflow_bench.config.compose import compose
from piflow_bench.data import digits_extractor
from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics import metric as metrics
from piflow_bench.evaluation.protocols import guidance_of, unguided
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.results import run as results
from piflow_bench.pipeline.stages.features import Describe
from piflow_bench.sources import package_digest
from piflow_bench.teachers.dit import DiTTeacher
from tests.pipeline.golden_keys import GOLDEN, keys, plans

SMOKE = ("profile=smoke", "only=[kd,teacher-euler]", "nfes=[1]")
SCORES = {"metrics", "partition", "breakdown"}
LOOKS = {"features", "metrics", "partition", "breakdown", "selection", "within"}
FROM_SAMPLES = {"sample", "features", "metrics", "scores", "breakdown", "selection", "within"}
FROM_STUDENTS = {"distill", *FROM_SAMPLES}


def test_golden_keys_of_every_shipped_experiment():
    """Where a change of keys is meant: ``python -m tests.pipeline.golden_keys``."""
    golden, found = json.loads(GOLDEN.read_text()), keys()
    assert golden.keys() == found.keys()
    for name, kinds in golden.items():
        all_kinds = kinds | found[name]
        assert not {kind for kind in all_kinds if kinds.get(kind) != found[name].get(kind)}, name


def stages(*settings):
    """Every stage of the small experiment, by name."""
    (config,) = compose([*SMOKE, *settings])
    return {s.name: s for s in make_plan(config).stages}


@pytest.fixture(scope="module")
def base():
    return stages()


def changed(base, other):
    """Kinds of which a stage appeared, or went."""
    return {(base | other)[name].kind for name in base.keys() ^ other.keys()}


@pytest.mark.parametrize(
    "setting, kinds",
    [
        ("budget.amount=61", FROM_STUDENTS),
        ("training.batch=32", FROM_STUDENTS),
        ("variants.kd.settings.lr=0.123", FROM_STUDENTS),
        ("train_seeds=[1]", FROM_STUDENTS),
        ("protocol.metrics=[fd,recall]", {"metrics", "partition"}),
        ("protocol.curve_metrics=[recall]", {"metrics"}),
        ("protocol.settings.k=4", SCORES),
        ("protocol.agreement=null", {"scores"}),
        ("protocol.agreement=flow_map_error", {"scores"}),
        ("protocol.curve_extractors=[digits-pixels]", {"features", "metrics"}),
        ("protocol.primary_quality=kid_exact", {"breakdown"}),
        ("protocol.extractors=[digits]", LOOKS),
        ("protocol.reference_seed=5", {"converged", *LOOKS} - {"partition", "within"}),
        ("converged.steps=3", {"converged", "scores", *LOOKS} - {"partition"}),
        ("converged.shift=3", {"converged", "scores", *LOOKS} - {"partition"}),
        ("scale.micro_batch=8", set()),
        ("launcher.retries=7", set()),
        ("sample_batch=7", set()),
        ("name=other", set()),
    ],
)
def test_a_setting_changes_these_kinds_and_no_others(base, setting, kinds):
    assert changed(base, stages(setting)) == kinds


def test_one_variants_setting_leaves_the_others_alone(base):
    other = stages("variants.kd.settings.lr=0.123")
    labels = [(base | other)[name].label for name in base.keys() ^ other.keys()]
    assert all("kd" in label for label in labels)


@pytest.mark.parametrize("name", ["fd", "vendi", "class_accuracy"])
def test_a_metrics_version_changes_what_holds_it_and_nothing_else(base, name, monkeypatch):
    known = dict(metrics.all_metrics())
    known[name] = replace(known[name], version=known[name].version + 1)
    monkeypatch.setattr(metrics, "all_metrics", lambda: known)
    other = stages()
    gone = [base[n] for n in base.keys() - other.keys()]
    holds = [s for s in base.values() if name in s.task.content.get("versions", {})]
    assert {s.name for s in gone} == {s.name for s in holds} and gone
    assert {s.kind for s in gone} <= SCORES


def test_a_kinds_version_changes_it_and_what_is_made_from_it(base, monkeypatch):
    monkeypatch.setattr(Describe, "revision", 2)
    assert changed(base, stages()) == LOOKS


@pytest.mark.parametrize("plugin", [digits_extractor.Digits, digits_extractor.DigitsJudge])
def test_the_weights_of_extractors_and_judge_are_in_keys_and_protocol(base, plugin, monkeypatch):
    """Other weights give other features; students, samples and real data stay."""
    (config,) = compose(SMOKE)
    before = make_plan(config).protocol_hash
    monkeypatch.setattr(plugin, "identity", lambda self: {"rule": self.rule, "weights": "another"})
    assert changed(base, stages()) == LOOKS
    assert make_plan(config).protocol_hash != before


@pytest.mark.parametrize(
    "setting", ["protocol.metrics=[fd,recall]", "protocol.curve_metrics=[recall]",
                "protocol.questions=[imitation]", "protocol.agreement=null",
                "protocol.primary_quality=kid_exact", "protocol.title=mine"],
)  # fmt: skip
def test_which_numbers_there_are_is_no_rule(setting):
    """Rows stay comparable: another metric or question changes none of the others."""
    before, after = (make_plan(compose([*SMOKE, *more])[0]) for more in ([], [setting]))
    assert after.protocol_hash == before.protocol_hash


@pytest.mark.parametrize(
    "setting", ["protocol.samples=61", "protocol.curve_samples=41", "protocol.settings.k=4",
                "protocol.reference_seed=5",
                "protocol.sampling_precision=bf16", "protocol.extractors=[digits-pixels]",
                "teacher.guidance=1", "converged.steps=3"],
)  # fmt: skip
def test_what_decides_numbers_is_a_rule(setting):
    before, after = (make_plan(compose([*SMOKE, *more])[0]) for more in ([], [setting]))
    assert after.protocol_hash != before.protocol_hash


def test_of_guidance_alone_rules_differ_in_guidance_alone():
    """By which a page joins runs that ask of real data."""
    alone = ["protocol.questions=[data]", "protocol.primary_question=data"]
    made = [make_plan(compose([*SMOKE, *alone, f"teacher.guidance={g}"])[0]) for g in (1, 2)]
    assert made[0].protocol_hash != made[1].protocol_hash
    assert unguided(made[0].rules) == unguided(made[1].rules)
    assert [guidance_of(plan.rules)["guidance"] for plan in made] == [1, 2]
    scales = [
        next(c for c in plan.cells if c.columns["variant"] == "teacher-converged") for plan in made
    ]
    assert [cell.columns["guidance"] for cell in scales] == [1, 2]


def test_the_stand_in_of_imagenet_has_the_fields_of_the_real_one():
    (made,) = plans("experiment=imagenet_1nfe_repa", "scale.device=cpu").values()
    features = next(s for s in made.stages if s.kind == "features")
    assert features.task.extractors["inception"]["weights"] == "weights"
    assert features.task.space["settings"]["autoencoder"] == "an autoencoder"
    teacher = next(s for s in made.stages if s.kind == "converged").task.teacher
    assert teacher["settings"].keys() == {f.name for f in fields(DiTTeacher.Config)}
    assert teacher["settings"]["checkpoint"] == "a teacher"


def test_a_readme_beside_an_autoencoder_changes_nothing(tmp_path):
    import torch
    from safetensors.torch import save_file

    from piflow_bench.networks.autoencoder import autoencoder_digest

    def write(scaling, weight, version="0.1"):
        config = {"_class_name": "AutoencoderKL", "scaling_factor": scaling}
        (tmp_path / "config.json").write_text(json.dumps(config | {"_diffusers_version": version}))
        save_file({"w": torch.full((2,), weight)}, tmp_path / "diffusion_pytorch_model.safetensors")
        return autoencoder_digest(tmp_path, "here")

    first = write(0.5, 1.0)
    (tmp_path / "README.md").write_text("words")
    assert write(0.5, 1.0, "0.2") == first
    assert len({first, write(0.6, 1.0), write(0.5, 2.0)}) == 3


def test_results_are_remade_when_the_code_of_intervals_changes(tmp_path, monkeypatch):
    (tmp_path / "evaluation").mkdir()
    module = tmp_path / "evaluation" / "intervals.py"
    module.write_text("x = 1\n")
    before = package_digest(tmp_path)
    module.write_text("x = 2\n")
    assert package_digest(tmp_path) != before
    (config,) = compose(SMOKE)
    made = make_plan(config)
    one = results.fingerprint(made, "")
    assert results.fingerprint(made, "") == one
    monkeypatch.setattr(results, "package_digest", lambda folder: "another")
    assert results.fingerprint(made, "") != one


def test_real_samples_are_scored_by_what_needs_no_teacher():
    """Metrics of samples beside the teacher's are asked of students; real ones have no noise."""
    asked = "protocol.metrics=[fd,recall,teacher_psnr,teacher_cosine]"
    found = [s.task for s in stages(asked).values() if s.kind == "partition"]
    assert found and all(task.metrics == ["fd", "recall"] for task in found)
    assert all(task.versions.keys() == {"fd", "recall"} for task in found)
    alone = ("protocol.primary_quality=teacher_cosine", "protocol.primary_diversity=teacher_cosine")
    none = stages("protocol.metrics=[teacher_cosine,teacher_psnr]", *alone)
    assert "partition" not in {s.kind for s in none.values()}


def test_what_ranks_first_is_of_features():
    """A row that looks at samples stands in no column of the first table."""
    asked = ("protocol.metrics=[fd,recall,teacher_psnr]", "protocol.primary_quality=teacher_psnr")
    with pytest.raises(UserError, match="primary_quality=teacher_psnr: looks at samples.*valid: "):
        stages(*asked)
