"""Pictures of what was scored."""

import numpy as np
import pytest
from PIL import Image

from piflow_bench.cli import main
from piflow_bench.evaluation.pictures import npz
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.shown import pictures_of
from piflow_bench.evaluation.sources import open_given, open_reference

ROWS = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
OTHER = 255 - ROWS


def taken(samples, count=None, reference=None, **more):
    target = None if reference is None else open_reference(reference, 1)
    given = open_given(samples, target, [count], **more)
    return given.take(given.places(count))


def folder(path, rows):
    path.mkdir(parents=True)
    for i, row in enumerate(rows):
        Image.fromarray(row).save(path / f"{i:03d}.png")
    return path


def test_partners_stand_side_by_side(tmp_path):
    sets = {
        "a": taken(folder(tmp_path / "a", ROWS), 50, reference=OTHER[:20], teacher=OTHER, cut=True),
        "b": taken(folder(tmp_path / "b", OTHER), 50),
        "alone": taken(folder(tmp_path / "c", ROWS[:50])),
    }
    found = pictures_of(sets)
    assert list(found) == ["a", "b", "alone", "reference", "teacher"]
    assert all(rows.shape == (16, 8, 8, 3) and rows.dtype == np.uint8 for rows in found.values())
    assert np.array_equal(found["b"], 255 - found["a"])
    assert np.array_equal(found["teacher"], found["b"])
    assert not np.array_equal(found["alone"], found["a"])
    again = pictures_of(sets)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_classes_are_shown_in_their_shares():
    labels = np.repeat(np.arange(4), 15)
    rows = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (60, 8, 8, 3))
    shown = pictures_of({"x": taken(rows, labels=labels)})["x"][:, 0, 0, 0]
    assert np.bincount(shown).tolist() == [4] * 4


def test_few_and_large_ones():
    large = ROWS[:3].repeat(40, axis=1).repeat(80, axis=2)
    assert pictures_of({"x": taken(large)})["x"].shape == (3, 128, 256, 3)
    sides = ROWS[:3].repeat(32, axis=1).repeat(32, axis=2)
    assert np.array_equal(pictures_of({"x": taken(sides)})["x"], sides)


@pytest.mark.parametrize("samples", ["x.npz", "[x.npz,../x/file.npz]"])
def test_the_command_writes_them(tmp_path, monkeypatch, samples):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    np.savez("x.npz", ROWS)
    np.savez("file.npz", OTHER)
    command = ["evaluate", f"samples={samples}", "extractor=digits", "metrics=[vendi]", "out=o"]
    assert main([*command, "teacher=file.npz"]) == 0
    with np.load("o/pictures.npz", allow_pickle=False) as found:
        names = ["samples"] if samples == "x.npz" else ["x", "file"]
        assert list(found) == [*names, "teacher"]
        assert found[names[0]].shape == (16, 8, 8, 3)


def test_a_large_file_is_entered_where_it_is_wanted(tmp_path, monkeypatch):
    """Pictures of a set whose features are known cost no reading of the whole."""
    monkeypatch.setattr(npz, "FAR", 1000)
    np.savez(tmp_path / "x.npz", labels=np.arange(60), arr_0=ROWS)
    monkeypatch.setattr(npz._Stream, "_copied", lambda stream: pytest.fail("copied"))
    images = open_images(tmp_path / "x.npz")
    places = np.array([2, 3, 30, 31, 59, 0])
    assert np.array_equal(images.take(places).read(0, 6), ROWS[places])
    whole = open_images(tmp_path / "x.npz")
    assert np.array_equal(np.concatenate(list(whole.batches(7))), ROWS)
    assert np.array_equal(whole.take(places).read(0, 6), ROWS[places])
