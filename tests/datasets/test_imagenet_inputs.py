"""Latents, autoencoder and teacher belong together, and what is given wins over stand-ins."""

import json
import shutil

import pytest
import torch

from piflow_bench.cli import main
from piflow_bench.config.compose import compose
from piflow_bench.data.imagenet import load
from piflow_bench.errors import UserError
from piflow_bench.networks.dit import DiT
from piflow_bench.preparation.stand_ins import generate


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


def teacher(inputs, path, change=lambda state: None, **options):
    """Another teacher of the same kind."""
    torch.manual_seed(0)
    shape = {"channels": 4, "height": 8, "dim": 48, "depth": 1, "heads": 4, "classes": 10}
    state = DiT(**shape | options).state_dict()
    change(state)
    torch.save(state, path)
    return {**inputs, "checkpoint": str(path)}


def nan(state):
    state["proj_out_1.bias"][3] = float("nan")


MISFITS = {
    "scaling of the latents": (
        lambda i, t: latents(i, t / "l", scaling=1.5),
        "autoencoder=.*: its scaling is 0.18215, .* is 1.5",
    ),
    "scaling of the autoencoder": (
        lambda i, t: autoencoder(i, t / "a", scaling_factor=0.36),
        "its scaling is 0.36",
    ),
    "shift": (lambda i, t: autoencoder(i, t / "a", shift_factor=0.1), "its shift is 0.1"),
    "channels": (lambda i, t: autoencoder(i, t / "a", latent_channels=16), "its channels is 16"),
    "size": (lambda i, t: latents(i, t / "l", size=128), "its factor is 8, .* is 16"),
    "weights": (lambda i, t: latents(i, t / "l", autoencoder="00ff"), "its autoencoder is"),
    "classes": (
        lambda i, t: teacher(i, t / "t.pth", classes=1000),
        "embeds 1000 classes and a null label, but .* has 10 classes",
    ),
    "no null label": (lambda i, t: teacher(i, t / "t.pth", classes=9), "embeds 9 classes"),
    "channels of the teacher": (
        lambda i, t: teacher(i, t / "t.pth", channels=16),
        "for latents of 16 channels, but these are 4x8x8",
    ),
    "positions": (
        lambda i, t: teacher(
            i, t / "t.pth", lambda s: s.update({"pos_embed.pos_embed": torch.zeros(1, 64, 48)})
        ),
        "position table is of 64 patches, these samples are of 16",
    ),
    "learned positions": (
        lambda i, t: teacher(
            i, t / "t.pth", lambda s: s.update({"pos_embed.pos_embed": torch.ones(1, 16, 48)})
        ),
        "is not the sines and cosines",
    ),
    "not finite": (lambda i, t: teacher(i, t / "t.pth", nan), "1 of 96 values of .* not finite"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_two_inputs_state_is_compared(inputs, tmp_path, case):
    change, words = MISFITS[case]
    with pytest.raises(UserError, match=words):
        load(change(inputs, tmp_path)).teacher()


def test_what_is_not_stated_is_not_compared(inputs, tmp_path):
    given = latents(inputs, tmp_path / "l", scaling=None, shift=None, autoencoder=None)
    assert load(given).teacher().network.channels == 4


def test_rectangles_are_refused(inputs, tmp_path):
    import numpy as np

    given = latents(inputs, tmp_path / "l", shape=[4, 8, 4])
    for path in (tmp_path / "l").glob("shard-*[0-9].npy"):
        np.save(path, np.load(path)[..., :4])
    with pytest.raises(UserError, match="4x8x4, but the networks here are of squares"):
        load(given)


GIVEN = {
    "checkpoint": "checkpoint=/nonexistent.pth",
    "dataset.settings.checkpoint": "dataset.settings.checkpoint=/nonexistent.pth",
    "latents": "dataset.settings.latents=/nonexistent",
    "reference": "dataset.settings.reference=/nonexistent.npz",
    "autoencoder": "dataset.settings.autoencoder=/nonexistent",
    "weights": "dataset.settings.weights=/nonexistent.pth",
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
    assert config.dataset.settings["checkpoint"] is None


def test_a_given_teacher_is_the_one_that_is_taken(inputs, runs, tmp_path):
    path = teacher(inputs, tmp_path / "mine.pth", depth=1)["checkpoint"]
    made = {"generated": str(runs / "inputs"), "heads": 4}
    assert len(load({**made, "checkpoint": path}).teacher().network.transformer_blocks) == 1
    assert len(load(made).teacher().network.transformer_blocks) == 2
