"""Latents of an autoencoder as a space: its facts at once, its weights when they are used."""

import json
import shutil

import numpy as np
import pytest
import torch

from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.uint8 import by_rule
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.spaces import latents
from tests.preparation.conftest import small_autoencoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_autoencoder(tmp_path_factory.mktemp("space") / "autoencoder")


def plugin(folder, **settings):
    return latents.Latents(latents.Config(autoencoder=folder and str(folder), **settings))


@pytest.fixture
def unread(monkeypatch):
    """No weights are loaded."""
    monkeypatch.setattr(
        latents.Autoencoder, "load", lambda *a, **k: pytest.fail("weights are loaded")
    )


def test_its_shape_is_known_without_weights(folder, unread):
    space = plugin(folder).load((32, 16, 3), Place())
    assert space.shape == (4, 16, 8)  # It halves an image once.
    assert not space.bounded and space.chunk == latents.CHUNK


@pytest.mark.parametrize("uint8", ["adm", "round"])
def test_pictures_are_the_autoencoders(folder, uint8):
    space, coder = plugin(folder, uint8=uint8).load((8, 8, 3), Place()), Autoencoder.load(folder)
    z = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    pictures = space.pictures(z)
    assert pictures.shape == (3, 8, 8, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, by_rule(coder.decode(z), uint8))
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(space.encode(pictures), coder.encode(x)[0])
    grey = pictures[..., :1]
    assert torch.equal(space.encode(grey), space.encode(np.repeat(grey, 3, axis=3)))


def test_weights_are_loaded_once(folder, monkeypatch):
    seen, load = [], Autoencoder.load
    monkeypatch.setattr(
        latents.Autoencoder, "load", lambda *given: seen.append(given) or load(*given)
    )
    space = plugin(folder, dtype="bfloat16").load((8, 8, 3), Place())
    for _ in range(2):
        space.pictures(torch.zeros(1, 4, 4, 4))
    assert seen == [(str(folder), "cpu", "bfloat16")]


def test_its_identity_is_weights_and_configuration_and_loads_none(folder, tmp_path, unread):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("whatever else lies there")
    same = plugin(folder).identity()
    assert plugin(tmp_path / "copy").identity() == same and str(folder) not in str(same)
    found = [
        same,
        plugin(folder, dtype="float16").identity(),
        plugin(folder, uint8="round").identity(),
    ]
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.5}))
    found.append(plugin(tmp_path / "copy").identity())
    assert len({str(each) for each in found}) == 4


def test_pictures_that_do_not_divide_are_refused(folder):
    for size in ((31, 32, 3), (32, 31, 3)):
        with pytest.raises(
            UserError, match=r"space\.autoencoder=.*: pictures of .* not divide by 2"
        ):
            plugin(folder).load(size, Place())


def test_what_is_not_given_or_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"space\.autoencoder: not given"):
        plugin(None).load((8, 8, 3), Place())
    with pytest.raises(UserError, match=r"autoencoder=.*nowhere: no such file or folder"):
        plugin(tmp_path / "nowhere").identity()
    (needed,) = latents.Latents(latents.Config()).requirements()
    assert needed.mend == ("hf download stabilityai/sd-vae-ft-ema, then space.autoencoder=FOLDER")
