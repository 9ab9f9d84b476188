"""Extraction by several processes, in other precisions, and the digits' own extractor."""

import shutil

import numpy as np
import pytest
from PIL import Image

from piflow_bench.data import digits
from piflow_bench.errors import UserError
from piflow_bench.evaluation import extraction
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.pipeline.runtime import described
from tests.world import world


@pytest.fixture(scope="module")
def eights():
    return np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)


def test_the_number_of_processes_and_threads_changes_nothing(eights, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 5)
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(eights):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    network = get_extractor("digits")
    one = extract(open_images(folder, workers=1), network, tmp_path / "1", batch=2)
    seen = []
    two = extract(
        open_images(folder, workers=3), network, tmp_path / "2", batch=2, processes=2,
        report=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    memory = extract(open_images(eights), network, tmp_path / "3", batch=2, processes=2)
    for name in one:
        assert len(one[name]) == 23
        assert np.array_equal(one[name], two[name]) and np.array_equal(one[name], memory[name])
    assert seen[0] == (0, 23) and seen[-1] == (23, 23)


def test_processes_finish_what_an_interruption_left(eights, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 5)
    network, images = get_extractor("digits"), open_images(eights)
    whole = extract(images, network, tmp_path, batch=2)
    shards = sorted(tmp_path.rglob("*.npz"))
    kept = shards[0].stat().st_mtime_ns
    for shard in shards[1:4]:
        shard.unlink()
    again = extract(images, network, tmp_path, batch=2, processes=2)
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    assert shards[0].stat().st_mtime_ns == kept


def test_a_mistake_in_a_process_is_the_users_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 2)
    wrong = open_images(np.zeros((5, 9, 9, 3), np.uint8))
    with pytest.raises(UserError, match="sees 8x8 images, not 9x9"):
        extract(wrong, get_extractor("digits"), tmp_path, processes=2)


def test_precision_is_asked_for_and_told_apart(eights, tmp_path):
    exact, half = get_extractor("digits"), get_extractor("digits", precision="bfloat16")
    a, b = (extract(open_images(eights), each, tmp_path) for each in (exact, half))
    error = np.abs(a["features"] - b["features"]).max() / np.abs(a["features"]).max()
    assert 1e-5 < error < 0.05
    assert len(list(tmp_path.iterdir())) == 2, "features of their own"
    with pytest.raises(UserError, match="precision=fp16"):
        get_extractor("digits", precision="fp16")
    with pytest.raises(UserError, match="device=cuda: no GPU"):
        get_extractor("digits", device="cuda")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_gives_the_same_features(eights, tmp_path):
    plain, compiled = get_extractor("digits"), get_extractor("digits", compiled=True)
    a, b = (extract(open_images(eights), each, tmp_path, batch=23) for each in (plain, compiled))
    assert np.allclose(a["features"], b["features"], rtol=1e-4, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


def test_digits_features_are_those_of_a_run():
    """The 17 grey levels, as uint8 and as a run's floats, reach the classifier alike."""
    x = digits.images()[0][:50]
    rows = ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    ours = get_extractor("digits")(rows.repeat(3, axis=3))
    runtime = world()
    seen = runtime.dataset().space.pictures(x)
    theirs = described(runtime.extractor("digits"), seen, 4)
    assert np.array_equal(rows, seen)
    assert np.allclose(ours["features"], theirs["features"], atol=1e-5)
    assert (ours["logits"].argmax(1) == digits.images()[1][:50].numpy()).mean() > 0.95


@pytest.mark.parametrize("harm", [b"", b"PK", None])
def test_damaged_features_are_made_anew(eights, tmp_path, harm, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD", 4)
    images, network = open_images(eights), get_extractor("digits")
    expected = extract(images, network, tmp_path)
    shards = sorted(tmp_path.rglob("*.npz"))
    assert len(shards) > 1
    content = shards[1].read_bytes()
    flipped = content[:300] + bytes(255 - byte for byte in content[300:340]) + content[340:]
    shards[1].write_bytes(flipped if harm is None else harm)
    found = extract(images, network, tmp_path)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert shards[1].read_bytes() == content
