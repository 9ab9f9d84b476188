"""Folders of npz files are one set."""

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.extraction import extract
from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.evaluation.pictures.opening import open_images

ROWS = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(23) % 4


def parts(folder, sizes=(9, 4, 10), name="part-{}.npz", labels=True, save=np.savez):
    """ROWS in files that are numbered without padding."""
    folder.mkdir(exist_ok=True)
    edges = np.cumsum([0, *sizes])
    for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False), 8):
        kept = (LABELS[a:b],) if labels else ()
        with (folder / name.format(i)).open("wb") as file:
            save(file, ROWS[a:b], *kept)
    return folder


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["part-{}.npz", "{}.NPZ", "rank{}/samples.npz"])
def test_rows_and_classes_in_the_order_people_count_in(tmp_path, save, name):
    for i in (8, 9, 10):
        (tmp_path / f"rank{i}").mkdir()
    images = open_images(parts(tmp_path, name=name, save=save))
    assert np.array_equal(images.read(0, 23), ROWS)
    assert images.labels.tolist() == LABELS.astype(str).tolist() and not images.warnings
    assert np.array_equal(np.concatenate(list(images.batches(5))), ROWS)
    some = np.array([22, 0, 9, 8, 12])
    assert np.array_equal(images.take(some).read(0, 5), ROWS[some])


def test_they_have_the_features_of_one_file(tmp_path):
    np.savez(tmp_path / "x.npz", ROWS)
    network = get_extractor("digits")
    whole = extract(open_images(tmp_path / "x.npz"), network, tmp_path / "1", batch=4)
    split = open_images(parts(tmp_path / "s", labels=False))
    found = extract(split, network, tmp_path / "2", batch=4, processes=2)
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_the_digest_is_the_contents(tmp_path):
    one, two, other = (tmp_path / name for name in "abc")
    first = open_images(parts(one)).digest()
    assert open_images(parts(two, name="{}.npz")).digest() == first
    assert open_images(parts(other, sizes=(9, 5, 9))).digest() != first


def test_mistakes_are_named(tmp_path):
    folder = parts(tmp_path / "x")
    np.savez(folder / "part-11.npz", ROWS[:3])
    with pytest.raises(UserError, match="part-8.npz states classes .* part-11.npz does not"):
        open_images(folder)
    np.savez(folder / "part-11.npz", ROWS[:3, :4, :4], LABELS[:3])
    with pytest.raises(UserError, match="several sizes: part-8.npz holds 8x8, part-11.npz 4x4"):
        open_images(folder)
    np.savez(folder / "part-11.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(UserError, match="part-11.npz: no array 'arr_0'"):
        open_images(folder)


def test_other_files_are_told_of(tmp_path):
    folder = parts(tmp_path / "x")
    (folder / "log.txt").write_text("")
    assert "left out beside 3 npz files: 1 .txt" in open_images(folder).warnings[0]
    (folder / "0.gif").write_bytes(b"")
    with pytest.raises(UserError, match="no images in it"):
        open_images(folder)


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        np.eye(4)[LABELS],
        np.eye(4, dtype=np.uint8)[LABELS],
        np.eye(4, dtype=bool)[LABELS],
        LABELS.astype(str)[:, None],
    ],
)
def test_ways_of_writing_classes(tmp_path, labels):
    np.savez(tmp_path / "x.npz", ROWS, labels)
    images = open_images(tmp_path / "x.npz")
    assert images.labels.tolist() == LABELS.astype(str).tolist() and not images.warnings


@pytest.mark.parametrize("labels", [LABELS + 0.0, np.eye(4)[LABELS] * 0.9, np.ones((23, 4))])
def test_what_is_no_classes_is_told_of(tmp_path, labels):
    np.savez(tmp_path / "x.npz", ROWS, labels)
    images = open_images(tmp_path / "x.npz")
    assert images.labels is None and "is not read as classes" in images.warnings[0]
