"""Images that come once, in batches."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import piflow_bench
from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.opening import open_images

ROWS = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(23) % 4
FIRST = torch.from_numpy(ROWS).permute(0, 3, 1, 2)


def batches(x, size=5):
    return [x[i : i + size] for i in range(0, len(x), size)]


class Stream(IterableDataset):
    def __iter__(self):
        yield from FIRST


SOURCES = {
    "generator": lambda: iter(batches(ROWS)),
    "channels first": lambda: iter(batches(FIRST)),
    "floats": lambda: iter(batches(FIRST.float() / 255)),
    "half": lambda: iter(batches((FIRST.float() / 255).to(torch.bfloat16))),
    "pictures": lambda: (Image.fromarray(row) for row in ROWS),
    "lists of pictures": lambda: ([Image.fromarray(r) for r in b] for b in batches(ROWS)),
    "single images": lambda: iter(ROWS),
    "single tensors": lambda: iter(FIRST),
    "a map": lambda: map(np.asarray, batches(ROWS, 1)),
    "loader": lambda: DataLoader(FIRST, batch_size=5),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=4),
}


@pytest.mark.parametrize("source", SOURCES)
def test_they_are_the_array(source):
    images, whole = open_images(SOURCES[source]()), open_images(ROWS)
    assert np.array_equal(images.read(0, len(images)), ROWS)
    assert images.digest() == whole.digest() and images.labels is None


def test_labels_come_with_their_images():
    for source in (
        DataLoader(TensorDataset(FIRST, torch.from_numpy(LABELS)), batch_size=5),
        zip(batches(ROWS), batches(LABELS), strict=True),
        zip(batches(ROWS), batches(np.eye(4)[LABELS]), strict=True),
        zip(batches(ROWS), batches(LABELS.astype(str).tolist()), strict=True),
        zip(ROWS, LABELS.tolist(), strict=True),
        zip(batches(ROWS), batches(LABELS), batches(LABELS), strict=True),
    ):
        images = open_images(source)
        assert images.labels.tolist() == LABELS.astype(str).tolist()
        assert np.array_equal(images.read(0, 23), ROWS)


def test_a_loader_that_shuffles_keeps_images_and_labels_together(tmp_path):
    loader = DataLoader(TensorDataset(FIRST, torch.from_numpy(LABELS)), batch_size=5, shuffle=True)
    images = open_images(loader)
    found = images.read(0, 23)
    for image, label in zip(found, images.labels, strict=True):
        (place,) = np.flatnonzero((image == ROWS).all((1, 2, 3)))
        assert str(LABELS[place]) == label


def test_they_are_scored_like_the_array(tmp_path):
    settings = dict(extractor="digits", metrics=["fd", "vendi"], cache=tmp_path)
    loader = DataLoader(FIRST, batch_size=5)
    found = piflow_bench.evaluate(loader, iter(batches(255 - ROWS)), processes=2, **settings)
    expected = piflow_bench.evaluate(ROWS, 255 - ROWS, **settings)
    assert found.equals(expected)


@pytest.mark.parametrize(
    "source, words",
    [
        (lambda: iter([]), "no images in it; what gives its images once"),
        (lambda: iter([ROWS[:2], ROWS[:2, :4]]), "batch 1: images of several sizes: 8x8 and 8x4"),
        (lambda: iter([ROWS[:2], ROWS[:0]]), "batch 1: no images in it"),
        (lambda: iter([ROWS[0, :, :, 0]]), "batch 0: shape .8, 8. is no stack"),
        (lambda: iter([ROWS / 2.0]), r"batch 0: floats must lie in \[0, 1\]"),
        (lambda: iter([(ROWS, LABELS[:9])]), "batch 0: labels int64 .9,. for 23 images"),
        (lambda: iter([(ROWS, LABELS), ROWS]), "batch 1: labels come with some batches"),
        (lambda: iter([{"image": ROWS}]), "batch 0: dict is no array"),
        (lambda: {"a": ROWS}.items(), "batch 0: str is no array"),
    ],
)
def test_mistakes_name_the_batch(source, words):
    with pytest.raises(UserError, match=words) as error:
        open_images(source())
    assert "\n" not in str(error.value)
