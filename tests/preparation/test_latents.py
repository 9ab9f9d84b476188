"""The autoencoder beside diffusers' own, and rows as they are read back."""

import json
import shutil

import numpy as np
import pytest
import torch

from piflow_bench.errors import UserError
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation.latents import Latents
from piflow_bench.preparation.pixels import centre_crop, decode
from piflow_bench.preparation.sources.opening import open_source
from tests.preparation.conftest import small_autoencoder

ROWS = torch.tensor([29, 0, 7, 6, 5, 7, 18])


def pixels(inputs, rows, mirrored=False):
    """Cropped images ``(B, 3, 32, 32)`` in [-1, 1]."""
    source = open_source(inputs.images, 10)
    found = [np.array(centre_crop(decode(source.read(int(i))), 32)) for i in rows]
    x = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.flip(-1) if mirrored else x


# ------------------------------------------------------------------ autoencoder


@pytest.mark.parametrize("facts", [{}, {"scaling_factor": 0.36, "shift_factor": 0.12}])
@torch.no_grad()
def test_encoding_and_decoding_are_diffusers_own(inputs, tmp_path, facts):
    from diffusers import AutoencoderKL

    folder = small_autoencoder(tmp_path / "a", **facts)
    coder, model = Autoencoder.load(str(folder)), AutoencoderKL.from_pretrained(folder)
    scaling, shift = facts.get("scaling_factor", 0.18215), facts.get("shift_factor", 0.0)
    assert (coder.channels, coder.factor, coder.scaling, coder.shift) == (4, 2, scaling, shift)
    x = pixels(inputs, range(5))
    posterior = model.encode(x).latent_dist
    mean, std = coder.encode(x)
    assert (mean - (posterior.mean - shift) * scaling).abs().max() < 1e-6
    assert (std - posterior.std * scaling).abs().max() < 1e-6
    images = coder.decode(mean, batch=2)
    assert images.dtype == torch.float32 and images.shape == x.shape
    assert (images - model.decode(posterior.mean).sample).abs().max() < 1e-5


def test_its_digest_is_of_its_weights_alone(inputs, tmp_path):
    shutil.copytree(inputs.autoencoder, tmp_path / "a")
    before = Autoencoder.load(str(tmp_path / "a")).digest
    (tmp_path / "a" / "README.md").write_text("What the hub adds.")
    assert Autoencoder.load(str(tmp_path / "a")).digest == before
    from safetensors.torch import load_file, save_file

    file = tmp_path / "a" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["encoder.conv_in.bias"][0] += 1
    save_file(tensors, file)
    assert Autoencoder.load(str(tmp_path / "a")).digest != before


def test_tiles_are_used_when_asked(inputs):
    coder = Autoencoder.load(str(inputs.autoencoder), tiled=True)
    plain = Autoencoder.load(str(inputs.autoencoder))
    z = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))  # 4 tiles of 16
    tiled, once = coder.decode(z), plain.decode(z)
    assert tiled.shape == once.shape and not torch.equal(tiled, once)


def test_what_is_no_autoencoder_is_refused_with_the_fix(inputs, tmp_path):
    shutil.copytree(inputs.autoencoder, tmp_path / "a")
    file = tmp_path / "a" / "diffusion_pytorch_model.safetensors"
    file.rename(tmp_path / "weights")
    with pytest.raises(UserError, match=r"no diffusion_pytorch_model\.safetensors in"):
        Autoencoder.load(str(tmp_path / "a"))
    (tmp_path / "a" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"\.bin is a pickle, .*save_pretrained\(FOLDER\)"):
        Autoencoder.load(str(tmp_path / "a"))
    file.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="autoencoder="):
        Autoencoder.load(str(tmp_path / "a"))
    with pytest.raises(UserError, match="no such file"):
        Autoencoder.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="must be float32, float16 or bfloat16"):
        Autoencoder.load(str(inputs.autoencoder), dtype="fp8")


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("dtype, near", [("float32", 1e-6), ("float16", 2e-3)])
def test_rows_are_the_encoding_of_the_image_and_of_its_mirror(inputs, tmp_path, dtype, near):
    found = Latents(inputs.make(tmp_path / "out", dtype=dtype))
    coder = Autoencoder.load(str(inputs.autoencoder))
    noise = torch.randn(len(ROWS), *found.shape, generator=torch.Generator().manual_seed(0))
    for view in (0, 1):
        mean, std = coder.encode(pixels(inputs, ROWS, mirrored=bool(view)))
        sides = torch.full((len(ROWS),), view)
        assert (found.take(ROWS, sides, None) - mean).abs().max() < near
        assert (found.take(ROWS, sides, noise) - (mean + std * noise)).abs().max() < 2 * near
    mixed = torch.arange(len(ROWS)) % 2
    both = [found.take(ROWS, torch.full((len(ROWS),), view), noise) for view in (0, 1)]
    expected = torch.where(mixed[:, None, None, None] == 1, both[1], both[0])
    assert torch.equal(found.take(ROWS, mixed, noise), expected)
    assert found.take(ROWS, None, None).dtype == torch.float32
    assert found.take(ROWS[:0], None, None).shape == (0, *found.shape)


def test_samples_have_noise_of_their_own_whatever_the_batch(inputs, tmp_path):
    from piflow_bench.randomness import SampleRandom

    settings = {"kind": "sample", "dtype": "float32", "seed": 5}
    found = Latents(inputs.make(tmp_path / "a", **settings))
    other = Latents(inputs.make(tmp_path / "b", **settings, batch=5, shard=30))
    rows = torch.arange(30)
    coder = Autoencoder.load(str(inputs.autoencoder))
    for view in (0, 1):
        sides = torch.full((30,), view)
        mean, std = coder.encode(pixels(inputs, rows, mirrored=bool(view)))
        noise = SampleRandom(5, rows.tolist()).normal(view, found.shape, stream="latents")
        assert (found.take(rows, sides, None) - (mean + std * noise)).abs().max() < 1e-5
        assert (other.take(rows, sides, None) - found.take(rows, sides, None)).abs().max() < 1e-5


def test_rows_that_are_not_there(whole):
    found = Latents(whole)
    for row in (-1, 30):
        with pytest.raises(IndexError, match="of 30 latents"):
            found.take(torch.tensor([0, row]), None, None)


def test_what_the_folder_says(inputs, whole):
    import hashlib

    found = Latents(whole)
    facts = found.facts
    assert (facts["count"], facts["classes"], facts["class_counts"]) == (30, 10, [3] * 10)
    assert facts["autoencoder"] == Autoencoder.load(str(inputs.autoencoder)).digest
    assert facts["source"]["description"] == f"class folders, {inputs.images}"
    for shard in facts["shards"]:
        for name, sha256 in zip(shard["files"], shard["sha256"], strict=True):
            assert hashlib.sha256((whole / name).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: (f / "latents.json").write_text("{"), "prepare the latents anew"),
        (lambda f: (f / "latents.json").write_text("[]"), "of another format"),
        (lambda f: (f / "shard-00001.npy").unlink(), "shard-00001.npy cannot be read"),
        (lambda f: (f / "shard-00001.npy").write_bytes(b""), "shard-00001.npy cannot be read"),
        (lambda f: np.save(f / "shard-00001.npy", np.zeros((6, 2, 8, 8, 8))), "has rows of"),
        (lambda f: np.save(f / "shard-00001.labels.npy", np.zeros(5)), "cut short"),
        (
            lambda f: np.save(f / "shard-00001.labels.npy", np.array([{}] * 6), allow_pickle=True),
            "cannot be read",
        ),
    ],
)
def test_damaged_folders(whole, tmp_path, damage, words):
    folder = tmp_path / "latents"
    shutil.copytree(whole, folder)
    damage(folder)
    with pytest.raises(UserError, match=words):
        Latents(folder)


def test_the_digest_is_of_content_and_meaning(inputs, whole, tmp_path):
    assert Latents(inputs.make(tmp_path / "a")).digest == Latents(whole).digest
    from piflow_bench.preparation.latents import content_digest

    facts = json.loads((whole / "latents.json").read_text())
    for key, value in (("shift", 0.5), ("scaling", 1.0), ("dtype", "float32"), ("size", 64)):
        assert content_digest({**facts, key: value}) != facts["digest"], key
