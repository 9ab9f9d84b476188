"""Latents and autoencoder belong together, and what is given wins over stand-ins."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.data import latent_images
from piflow_bench.errors import UserError
from piflow_bench.networks.dit import DiT
from piflow_bench.pipeline.plan import runtime_of
from piflow_bench.preparation.stand_ins import generate
from piflow_bench.randomness import TrainingRandom
from tests.latent_world import latent_world


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs with the generated inputs in it."""
    folder = tmp_path_factory.mktemp("runs")
    generate(folder / "inputs")
    return folder


@pytest.fixture
def inputs(runs):
    return generate(runs / "inputs")


def latents(inputs, folder, **facts):
    """The latents with other facts, ``None`` for one that is not stated."""
    shutil.copytree(inputs["latents"], folder)
    path = folder / "latents.json"
    stated = json.loads(path.read_text()) | facts
    path.write_text(json.dumps({k: v for k, v in stated.items() if v is not None}))
    return {**inputs, "latents": str(folder)}


def autoencoder(inputs, folder, **facts):
    """The autoencoder with other facts."""
    shutil.copytree(inputs["autoencoder"], folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return {**inputs, "autoencoder": str(folder)}


MISFITS = {
    "scaling of the latents": (
        lambda i, t: latents(i, t / "l", scaling=1.5),
        r"space\.autoencoder=.*: its scaling is 0.18215, .* is 1.5",
    ),
    "scaling of the autoencoder": (
        lambda i, t: autoencoder(i, t / "a", scaling_factor=0.36),
        "its scaling is 0.36",
    ),
    "shift": (lambda i, t: autoencoder(i, t / "a", shift_factor=0.1), "its shift is 0.1"),
    "channels": (lambda i, t: autoencoder(i, t / "a", latent_channels=16), "its channels is 16"),
    "size": (lambda i, t: latents(i, t / "l", size=128), "its factor is 8, .* is 16"),
    "weights": (lambda i, t: latents(i, t / "l", autoencoder="00ff"), "its autoencoder is"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_two_inputs_state_is_compared(inputs, tmp_path, case):
    change, words = MISFITS[case]
    with pytest.raises(UserError, match=words):
        latent_world(change(inputs, tmp_path)).dataset()


def test_what_is_not_stated_is_not_compared(inputs, tmp_path):
    given = latents(inputs, tmp_path / "l", scaling=None, shift=None, autoencoder=None)
    assert latent_world(given).dataset().shape == (4, 8, 8)


def test_a_space_that_cannot_hold_the_latents_is_refused(inputs):
    runtime = latent_world(inputs)
    pixels = replace(runtime, given=replace(runtime.given, space={"name": "pixels"}))
    with pytest.raises(UserError, match=r"dataset\.latents=.*: 4x8x8, but the space holds 3x64x64"):
        pixels.dataset()


def test_the_dataset(inputs):
    data = latent_world(inputs).dataset()
    assert (data.name, data.shape, data.label_law) == ("imagenet", (4, 8, 8), "uniform")
    assert str(data.reference) == inputs["reference"] and data.truth is None
    assert len(data.training_rows) == len(data.train_condition) == 30
    assert len(data.train) == len(data.test) == len(data.test_condition) == 0
    assert data.train_condition.count == data.conditions(0, range(4)).count == 10
    pictures = data.space.pictures(data.memorised(3))
    assert pictures.shape == (3, 64, 64, 3) and pictures.dtype == np.uint8


def test_rows_are_drawn_with_a_view_and_noise_of_their_own(inputs):
    rows = latent_world(inputs).dataset().training_rows
    index = torch.tensor([3, 3, 7])
    plain = rows.take(index, None)
    assert torch.equal(plain[0], plain[1])
    drawn = rows.take(index, TrainingRandom(0, 0, 0, 3))
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(rows.take(index, TrainingRandom(0, 0, 0, 3)), drawn)


def test_what_is_not_given_is_named(inputs):
    for key, words in (("latents", "prepare imagenet"), ("reference", "ADM's suite")):
        with pytest.raises(UserError, match=rf"dataset\.{key}: not given; .*{words}"):
            latent_world({**inputs, key: None}).dataset()


def test_its_identity_reads_the_reference_alone(inputs, tmp_path, monkeypatch):
    """Of the latents the loaded dataset has a digest."""
    monkeypatch.setattr(latent_images, "Latents", lambda folder: pytest.fail("latents are read"))

    def identity(**changes):
        return latent_world({**inputs, **changes}).dataset_plugin().identity()

    copy = shutil.copy(inputs["reference"], tmp_path / "elsewhere.npz")
    assert identity(reference=str(copy)) == identity(latents="/nowhere") == identity()
    np.savez(copy, mu=np.zeros(3))
    assert identity(reference=str(copy)) != identity()


# ------------------------------------------------------------------ stand-ins


GIVEN = {
    "teacher": "teacher.checkpoint=/nonexistent.pth",
    "latents": "dataset.latents=/nonexistent",
    "reference": "dataset.reference=/nonexistent.npz",
    "autoencoder": "space.autoencoder=/nonexistent",
    "weights": "extractors.inception.weights=/nonexistent.pth",
}


@pytest.mark.parametrize("case", GIVEN)
def test_what_is_given_wins_over_a_profiles_stand_ins(runs, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    smoke = ["experiment=imagenet_1nfe_repa", "profile=smoke", f"runs={runs}"]
    assert main(["run", "--plan", *smoke, GIVEN[case]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert GIVEN[case].partition("=")[2] in error
    (config,) = compose(smoke)
    assert config.teacher["checkpoint"] == "stand-in://teacher"


def test_a_given_teacher_is_the_one_that_is_taken(runs, tmp_path):
    shape = {"channels": 4, "height": 8, "dim": 48, "depth": 1, "heads": 2, "classes": 10}
    torch.save(DiT(**shape).state_dict(), tmp_path / "mine.pth")
    smoke = ["experiment=imagenet_1nfe_repa", "profile=smoke", f"runs={runs}"]

    def network(*settings):
        (config,) = compose([*smoke, *settings])
        return runtime_of(config).teacher().network

    mine = network(f"teacher.checkpoint={tmp_path / 'mine.pth'}", "teacher.heads=2")
    assert (len(mine.transformer_blocks), mine.transformer_blocks[0].attn1.heads) == (1, 2)
    made = network()
    assert (len(made.transformer_blocks), made.transformer_blocks[0].attn1.heads) == (2, 4)
