"""ImageNet's experiments end to end under the smoke profile: prepare, teacher, methods, page."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import piflow_bench
from piflow_bench.config.compose import compose
from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.pictures.spaces import Look
from piflow_bench.networks.checkpoints.dit import load_dit
from piflow_bench.pipeline.plan import make_plan
from piflow_bench.pipeline.runtime import Given, Runtime
from piflow_bench.pipeline.stages.features import DescribeReference
from piflow_bench.preparation.stand_ins import HEADS, generate
from tests.pipeline import harness

STUDENTS = {"piflow-gm32", "meanflow", "dmd2", "kd", "freeflow", "ladd"}
OTHERS = {
    *("piflow-gm8", "piflow-dx20", "dmd2-logit-normal", "decoupled", "f-distill-js"),
    *("sid", "twinflow", "scflow", "d2o", "alpha-flow", "soflow", "cd", "scm"),
    *("instaflow", "progressive", "arcflow", "shortcut", "imf", "facm", "tvm", "imm"),
}
"""Methods and settings of which that is tested on digits or on the plane."""

BOTH = "only=[kd,teacher-euler]"
SMOKE = ("profile=smoke", "budget.checkpoints=[1.0]")
"""Half of a run's time would be the checkpoint before the last one, which is as on digits."""


def run(folder, *settings):
    """In this process."""
    harness.forget()
    result = harness.call("run", *SMOKE, "launcher=debug", *settings, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One evaluation, all methods with one teacher and some with both, by a process and workers."""
    folder = tmp_path_factory.mktemp("imagenet")
    most = f"only=[teacher-euler,{','.join(sorted(STUDENTS))}]"
    for settings in (
        ["experiment=imagenet_1nfe_repa", most],
        ["experiment=imagenet_1nfe_fm", BOTH],
    ):
        result = harness.run(*settings, *SMOKE, cwd=folder, timeout=1100)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder


def results(folder, name):
    return pd.read_parquet(folder / "runs" / name / "results.parquet")


def test_every_method_is_trained_and_scored_by_adms_protocol(folder):
    table = results(folder, "imagenet_1nfe_repa-smoke")
    assert (table.status == "ok").all()
    students = table[(table.role == "student") & (table.budget_fraction == 1)]
    assert set(students.variant) == STUDENTS
    assert set(table[table.role == "teacher"].variant) == {"teacher-euler"}
    for question in ("data", "imitation"):
        rows = students[(students.question == question) & (students.variant == "dmd2")]
        assert set(rows.metric) >= {"fd", "sfd", "is", "precision", "recall", "vendi"}
    rules = json.loads(table.rules.iloc[0])
    assert rules["neighbour_precision"] == "float16" and rules["is_shuffle"] is False
    spent = students.groupby("variant").train_tfe.first()
    assert spent.min() >= 60 and spent.max() < 60 * 1.5, "one budget for all"
    other = results(folder, "imagenet_1nfe_fm-smoke")
    assert set(other.protocol).isdisjoint(table.protocol), "another teacher, another ranking"


def test_the_page_shows_decoded_pictures_and_published_numbers(folder):
    page = (folder / "runs" / "imagenet_1nfe_repa-smoke" / "report.html").read_text()
    for words in ("Published numbers", "α-Flow-XL/2+", "2.85", "arXiv 2510.14974"):
        assert words in page, words
    grids = folder / "runs" / "imagenet_1nfe_repa-smoke" / "grids.npz"
    with np.load(grids, allow_pickle=False) as arrays:
        assert arrays["teacher"].shape[1:] == (64, 64, 3) and arrays["teacher"].dtype == np.uint8


@pytest.mark.parametrize("variant", ["teacher-euler", "kd"])
def test_evaluate_sees_the_pictures_that_the_run_saw(variant, folder):
    inputs = generate(folder / "runs" / "inputs")
    run = piflow_bench.open(folder / "runs" / "imagenet_1nfe_repa-smoke")
    (made,) = run._cell(variant, 1, None, "").samples
    samples = folder / "runs" / "store" / "artifacts" / made.name
    images = open_images(samples, look=Look({"autoencoder": inputs["autoencoder"]}))
    expected = run.images(run.samples(variant, 1))
    assert expected.shape[1:] == (64, 64, 3)
    assert np.array_equal(images.read(0, len(images)), expected)
    with pytest.raises(UserError, match=r"space\.autoencoder=PATH"):
        open_images(samples)


def test_a_second_call_finds_everything_done(folder):
    result = run(folder, "experiment=imagenet_1nfe", BOTH)
    assert result.stdout.count("0 stages computed") == 2


def test_the_plan_of_a_gpu_is_that_of_the_cpu(folder, monkeypatch):
    """The user's device wins over the smoke profile's, and is in no key."""
    keys = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.chdir(folder)
        (config,) = compose(
            ["experiment=imagenet_1nfe_repa", "profile=smoke", f"scale.device={device}"]
        )
        plan = make_plan(config)
        assert config.scale.device == device and config.scale.processes == 1
        keys.append([stage.key for stage in plan.stages])
    assert keys[0] == keys[1] and len(keys[0]) > 20


@pytest.mark.thorough
def test_the_other_variants_are_trained_and_scored(folder):
    (config,) = compose(["experiment=imagenet_1nfe_repa"])
    assert {*STUDENTS, *OTHERS, "teacher-euler"} == set(config.variants)
    run(folder, "experiment=imagenet_1nfe_repa", f"only=[{','.join(OTHERS)}]", "name=others")
    table = results(folder, "others")
    assert (table.status == "ok").all() and set(table.variant) >= OTHERS


@pytest.mark.thorough
def test_two_evaluations(folder):
    run(folder, "experiment=imagenet_2nfe", "only=[piflow-gm32,dp-dmd]")
    table = results(folder, "imagenet_2nfe-smoke")
    assert (table.status == "ok").all() and set(table.nfe.dropna()) == {2, 6}


def test_published_weights_are_scored_without_training(folder, tmp_path):
    from piflow_methods.piflow.heads import GMNetwork

    inputs = generate(folder / "runs" / "inputs")
    network, *_ = load_dit(inputs["teacher"], height=8, heads=4)
    network = GMNetwork(network, 32)
    weights = tmp_path / "gm [k=32], 1 step"  # A path that hydra's grammar would choke on.
    weights.mkdir()
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    save_file(state, weights / "diffusion_pytorch_model.safetensors")
    (weights / "config.json").write_text("{}")
    run(
        folder,
        "experiment=imagenet_1nfe_repa",
        "only=[teacher-euler,piflow-gm32]",
        f"student.checkpoint={weights}",
        "name=published",
    )
    table = results(folder, "published")
    rows = table[table.variant == "piflow-gm32"]
    assert (rows.status == "ok").all() and rows.train_seed.isna().all()
    assert rows.train_steps.max() == 0 and (rows.budget_fraction == 1).all()


def refused(folder, *settings):
    result = harness.call("run", "experiment=imagenet_1nfe_repa", *SMOKE, *settings, cwd=folder)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_published_weights_need_their_variant(folder, tmp_path):
    weights = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, weights)
    assert "only=[NAME" in refused(folder, f"student.checkpoint={weights}")


def given(folder):
    """A runtime of the files that the run generated."""
    files = generate(folder / "runs" / "inputs")
    return Runtime(
        given=Given(
            dataset={"name": "imagenet", **{k: files[k] for k in ("latents", "reference")}},
            teacher={"name": "dit", "checkpoint": files["teacher"], "heads": HEADS},
            space={"name": "latents", "autoencoder": files["autoencoder"]},
            extractors={"inception": {"weights": files["inception"]}},
        )
    )


@torch.no_grad()
def test_samples_are_decoded_before_they_are_looked_at(folder, tmp_path):
    runtime = given(folder)
    dataset = runtime.dataset()
    images = dataset.space.pictures(dataset.memorised(6))
    assert images.shape == (6, 64, 64, 3) and images.dtype == np.uint8
    outputs = runtime.extractor("inception")(images)
    assert outputs["features"].shape == (6, 2048) and outputs["spatial"].shape == (6, 2023)
    extractors = {"inception": runtime.extractor_plugin("inception").identity()}
    task = DescribeReference(dataset={}, extractors=extractors)
    task.run({}, tmp_path, runtime, lambda *told: None)
    with np.load(tmp_path / "features.npz") as real:
        assert real["inception"].shape[1] == 2048
        assert real["inception/spatial/mean"].shape == (2023,)


def test_labels_are_random_integers_by_sample_index(folder):
    dataset = given(folder).dataset()
    whole = dataset.conditions(3, range(400)).labels
    assert torch.equal(whole[[5, 399]], dataset.conditions(3, [5, 399]).labels)
    assert not torch.equal(whole, dataset.conditions(4, range(400)).labels)
    counts = whole.bincount(minlength=10)
    assert counts.min() > 15 and counts.max() < 70 and counts.max() != counts.min()


def test_training_rows_are_drawn_anew_at_every_reading(folder):
    from piflow_bench.api import TrainingRandom

    dataset = given(folder).dataset()
    rows = torch.tensor([0, 7, 7, 19])
    draws = [dataset.rows.take(rows, TrainingRandom(0, step, 0, 4)) for step in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    whole = dataset.rows.take(rows, TrainingRandom(0, 5, 0, 4))
    part = dataset.rows.take(rows[2:], TrainingRandom(0, 5, 2, 2))
    assert torch.equal(whole[2:], part), "independent of how a batch is divided"


def test_settings_are_checked():
    from piflow_bench.errors import UserError

    with pytest.raises(UserError, match="dataset.latent: .*did you mean"):
        Runtime(given=Given(dataset={"name": "imagenet", "latent": "x"})).dataset()
    with pytest.raises(UserError, match="dataset.latents: not given; .*prepare imagenet"):
        Runtime(given=Given(dataset={"name": "imagenet"})).dataset()
