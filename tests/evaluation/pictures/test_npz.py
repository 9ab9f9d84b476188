"""Rows of an npz in any order: the file is read twice at most, and nothing stays open."""

import os
import zipfile

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.npz import open_npz

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), dtype=np.uint8)


@pytest.fixture(params=[np.savez, np.savez_compressed])
def path(request, tmp_path):
    request.param(tmp_path / "x.npz", IMAGES, np.arange(40) % 10)
    return tmp_path / "x.npz"


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_classes_one_after_the_other_do_not_read_the_file_anew(path, monkeypatch):
    opened, hashed = [], []
    whole = zipfile.ZipFile

    class Counting(whole):
        def __init__(self, *args, **kwargs):
            opened.append(args)
            super().__init__(*args, **kwargs)

    images = open_npz(path, "samples")
    digest = images.fingerprint()
    monkeypatch.setattr(zipfile, "ZipFile", Counting)
    monkeypatch.setattr(
        "piflow_bench.evaluation.pictures.npz.file_digest", lambda path: hashed.append(path)
    )
    before = descriptors()
    digests = set()
    for label in range(10):
        rows = np.flatnonzero(images.labels == str(label))
        of_class = images.take(rows)
        assert np.array_equal(of_class.read(0, len(of_class)), IMAGES[rows])
        digests.add(of_class.digest())
    assert len(opened) == 2 and hashed == []
    assert len(digests) == 10 and digest not in digests
    assert descriptors() <= before + 1, "the copy alone"
    del images, of_class
    assert descriptors() <= before


def test_in_order_it_is_read_once_and_closed(path):
    images, before = open_npz(path, "samples"), descriptors()
    assert np.array_equal(np.concatenate(list(images.batches(7))), IMAGES)
    assert descriptors() == before
    assert np.array_equal(images.read(38, 40), IMAGES[38:])


def test_damage_is_found_whichever_way_it_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", np.tile(IMAGES, (100, 1, 1, 1)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[100_000] ^= 255
    (tmp_path / "x.npz").write_bytes(content)
    images = open_npz(tmp_path / "x.npz", "samples")
    first = images.read(20, 30)
    assert np.array_equal(first, IMAGES[20:30])
    with pytest.raises(UserError, match="samples=.*arr_0 is damaged"):
        images.read(0, 5)
