"""LPIPS: beside torch-fidelity's on the same weights, in bounded memory, from what files."""

import itertools
import pickle
import weakref
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics import lpips

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def theirs():
    """torch-fidelity's LPIPS with random weights."""
    from torch_fidelity import sample_similarity_lpips as module
    from torchvision.models import vgg

    torch.manual_seed(0)
    features = vgg.make_layers(vgg.cfgs["D"])
    for layer in features:
        if isinstance(layer, torch.nn.Conv2d):  # So that what tells images apart survives.
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.normal_(layer.bias, 0, 0.1)
    channels = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1)
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    with (
        mock.patch.object(module, "load_state_dict_from_url", lambda *a, **k: channels),
        mock.patch.object(
            module, "torchvision_load_pretrained_vgg16", lambda: SimpleNamespace(features=features)
        ),
    ):
        network = module.SampleSimilarityLPIPS("lpips")
    network.channels = channels
    network.vgg = {f"features.{key}": value for key, value in features.state_dict().items()}
    return network


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """The two published files, and one that holds the whole network."""
    folder = tmp_path_factory.mktemp("lpips")
    torch.save(theirs.channels, folder / lpips.FILE)
    torch.save(theirs.vgg | {"classifier.0.bias": torch.zeros(2)}, folder / lpips.VGG_FILE)
    torch.save(theirs.state_dict(), folder / "whole.pth")
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return lpips.load(str(folder / "whole.pth"))


@pytest.fixture
def seen(ours):
    """Shapes of what passed the network."""
    shapes = []
    hook = ours.network.features[0].register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(inputs[0].shape))
    )
    yield shapes
    hook.remove()


def pictures(count, height, width):
    """Smooth, and so alike that distances differ."""
    base = RNG.uniform(0, 255, (1, height, width, 3))
    noise = RNG.normal(0, 1, (count, height, width, 3))
    return (base + noise * np.linspace(0, 80, count)[:, None, None, None]).clip(0, 255).astype("u1")


def tensor(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (64, 64)])
def test_distances_equal_torch_fidelitys(ours, theirs, size):
    a, b = pictures(4, *size), pictures(4, *size)
    with torch.no_grad():
        expected = theirs(tensor(a), tensor(b)).numpy()
    assert expected.min() > 1e-3
    found = ours.distances(a, b)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_squared_distances_of_the_vectors_are_lpips(ours):
    a, b = pictures(3, 20, 24), pictures(3, 20, 24)
    x, y = ours.embed(a).double(), ours.embed(b).double()
    np.testing.assert_allclose(((x - y) ** 2).sum(1), ours.distances(a, b), rtol=1e-5)


def test_equal_images_are_at_distance_zero(ours):
    a = pictures(2, 16, 16)
    assert np.array_equal(ours.distances(a, a), [0, 0])
    assert ours.distances(a[:0], a[:0]).shape == (0,)


class TestPairs:
    def test_every_pair_with_one_pass_an_image(self, ours, seen):
        images = pictures(5, 18, 16)
        found = ours.pair_distances(images)
        assert sum(shape[0] for shape in seen) == 5
        assert found.shape == (5, 5) and np.array_equal(found, found.T)
        assert np.array_equal(np.diagonal(found), np.zeros(5))
        for i, j in itertools.permutations(range(5), 2):
            expected = ours.distances(images[i : i + 1], images[j : j + 1])[0]
            assert found[i, j] == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("blocks, held", [(1, 7), (4, 6), (7, 3)])
    def test_memory_is_bounded_and_changes_nothing(self, ours, seen, monkeypatch, blocks, held):
        images = pictures(7, 16, 16)
        expected = ours.pair_distances(images)
        bytes_each = ours.embed(images[:1]).nbytes
        seen.clear()
        embed, alive, most = lpips.Lpips.embed, [], []

        def watched(self, images):
            found = embed(self, images)
            alive.append(weakref.ref(found))
            most.append(sum(len(x) for ref in alive if (x := ref()) is not None))
            return found

        monkeypatch.setattr(lpips.Lpips, "embed", watched)
        found = ours.pair_distances(images, memory=held * bytes_each)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
        assert max(most) <= held
        assert len(most) == blocks * (blocks + 1) / 2

    def test_no_memory_at_all_still_gives_all_pairs(self, ours):
        images = pictures(3, 16, 16)
        found = ours.pair_distances(images, memory=0)
        np.testing.assert_allclose(found, ours.pair_distances(images), rtol=1e-4, atol=1e-9)

    def test_groups_without_pairs(self, ours):
        assert ours.pair_distances(pictures(2, 16, 16)[:0]).shape == (0, 0)
        assert np.array_equal(ours.pair_distances(pictures(2, 16, 16)[:1]), [[0]])


def test_few_pixels_pass_the_network_at_once(ours, seen, monkeypatch):
    a, b = pictures(5, 16, 20), pictures(5, 16, 20)
    vectors, distances = ours.embed(a), ours.distances(a, b)
    seen.clear()
    monkeypatch.setattr(lpips, "PIXELS", 2 * 16 * 20 + 5)
    np.testing.assert_allclose(ours.embed(a), vectors, atol=1e-5)
    assert [shape[0] for shape in seen] == [2, 2, 1]
    np.testing.assert_allclose(ours.distances(a, b), distances, rtol=1e-4)
    monkeypatch.setattr(lpips, "PIXELS", 1)
    seen.clear()
    np.testing.assert_allclose(ours.distances(a, b), distances, rtol=1e-4)
    assert [shape[0] for shape in seen] == [1] * 10


def test_tf32_is_off_within_and_untouched_without(ours, monkeypatch):
    inside = []
    hook = ours.network.features[0].register_forward_hook(
        lambda *_: inside.append(torch.backends.cudnn.allow_tf32)
    )
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    ours.embed(pictures(1, 16, 16))
    hook.remove()
    assert inside == [False] and torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((1, 15, 16, 3), np.uint8), ["16x16", "16x15"]),
        (np.zeros((1, 16, 15, 3), np.uint8), ["16x16", "15x16"]),
        (np.zeros((1, 16, 16, 3), np.float32), ["uint8", "float32"]),
        (np.zeros((1, 16, 16, 1), np.uint8), ["(n, height, width, 3)"]),
        (np.zeros((16, 16, 3), np.uint8), ["(n, height, width, 3)"]),
        (np.zeros((16, 16), np.uint8), ["(n, height, width, 3)"]),
    ],
)
def test_other_images_are_refused(ours, images, words):
    for refused in (
        lambda: ours.embed(images),
        lambda: ours.distances(images, images),
        lambda: ours.pair_distances(images),
    ):
        with pytest.raises(UserError) as error:
            refused()
        assert all(word in str(error.value) for word in words)


def test_sets_that_are_not_aligned_are_refused(ours):
    a = pictures(3, 16, 16)
    with pytest.raises(UserError, match="aligned"):
        ours.distances(a, a[:2])


class TestWeights:
    def test_the_published_files_equal_one_of_the_whole(self, ours, folder, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(folder))
        a, b = pictures(2, 16, 16), pictures(2, 16, 16)
        cached, given = lpips.load(), lpips.load(str(folder / lpips.FILE))
        assert cached.identity == given.identity
        for found in (cached, given):
            assert np.array_equal(found.distances(a, b), ours.distances(a, b))

    def test_identity_tells_either_files_weights(self, theirs, folder, tmp_path, monkeypatch):
        def identity(channels, vgg):
            torch.save(channels, tmp_path / lpips.FILE)
            torch.save(vgg, tmp_path / lpips.VGG_FILE)
            return lpips.load().identity

        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path))
        key, bias = "lin0.model.1.weight", "features.0.bias"
        first = identity(theirs.channels, theirs.vgg)
        assert identity(theirs.channels, theirs.vgg) == first
        others = {
            identity(theirs.channels | {key: theirs.channels[key] + 1}, theirs.vgg),
            identity(theirs.channels, theirs.vgg | {bias: theirs.vgg[bias] + 1}),
        }
        assert len(others | {first}) == 3

    def test_what_is_missing_is_named(self, folder, tmp_path, monkeypatch):
        def offline(*arguments, **keywords):
            raise OSError("no route")

        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path / "cache"))
        monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
        for given, file in ((None, lpips.FILE), (str(folder / lpips.FILE), lpips.VGG_FILE)):
            with pytest.raises(UserError) as error:
                lpips.load(given)
            for word in (file, str(tmp_path / "cache"), "lpips.weights=FILE", "no route"):
                assert word in str(error.value)
        with pytest.raises(UserError, match="^lpips.weights=.*none.pth: no such file"):
            lpips.load(str(tmp_path / "none.pth"))

    @pytest.mark.parametrize("value", [-1e-3, float("nan")])
    def test_weights_without_a_root_are_refused(self, theirs, tmp_path, value):
        state = theirs.state_dict()
        state["lin3.model.1.weight"] = state["lin3.model.1.weight"].clone()
        state["lin3.model.1.weight"][0, 7] = value
        torch.save(state, tmp_path / "x.pth")
        with pytest.raises(UserError, match="^lpips.weights=.*negative"):
            lpips.load(str(tmp_path / "x.pth"))

    def test_a_damaged_vgg16_is_named(self, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("PIFLOW_BENCH_WEIGHTS", str(tmp_path))
        (tmp_path / lpips.VGG_FILE).write_bytes(b"x")
        with pytest.raises(
            UserError, match=f"^lpips.weights=.*{lpips.VGG_FILE}: not a PyTorch file"
        ):
            lpips.load(str(folder / lpips.FILE))

    def test_pickles_and_other_networks_are_refused(self, theirs, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (pytest.fail, ("unpickled",))

        path = tmp_path / "x.pth"
        path.write_bytes(pickle.dumps(Bomb(), protocol=2))
        with pytest.raises(UserError, match="^lpips.weights=.*plain tensors"):
            lpips.load(str(path))
        whole = theirs.state_dict()
        for name, change in (
            ("lin1.model.1.weight", torch.ones(1, 192, 1, 1)),
            ("net.slice3.10.weight", torch.ones(384, 192, 3, 3)),
            ("lin4.model.1.weight", None),
            ("net.slice5.28.bias", None),
        ):
            state = {key: value for key, value in whole.items() if key != name}
            torch.save(state if change is None else state | {name: change}, path)
            with pytest.raises(UserError, match="^lpips.weights=.*not LPIPS's on VGG16") as error:
                lpips.load(str(path))
            assert "\n" not in str(error.value)
