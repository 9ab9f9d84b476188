"""Pillow's images by the rule for files; axes that may be read in two ways are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.opening import open_images

ROWS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)


def everything(images):
    return images.read(0, len(images))


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "LA", "1", "RGBA", "PA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.filterwarnings("error:Palette images with Transparency")
def test_pillow_images_are_what_their_files_would_be(mode, tmp_path):
    middle = "L" if mode in ("LA", "PA") else "RGB"
    pictures = [Image.fromarray(row).convert(middle) for row in ROWS]
    pictures = [p.convert("P").convert("PA") if mode == "PA" else p.convert(mode) for p in pictures]
    found = everything(open_images(pictures))
    assert np.array_equal(found, [np.asarray(p.convert("RGB")) for p in pictures])
    pairs = everything(open_images([(picture, 3) for picture in pictures]))
    assert np.array_equal(found, pairs)
    if mode in ("P", "L", "LA", "1", "RGBA"):
        for i, picture in enumerate(pictures):
            picture.save(tmp_path / f"{i}.png")
        assert np.array_equal(found, everything(open_images(tmp_path)))
    if mode == "P":
        for picture in pictures:
            picture.info["transparency"] = bytes(256)
        assert np.array_equal(found, everything(open_images(pictures)))
        assert "transparency" in pictures[0].info, "the caller's image stays as it is"


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(np.zeros((6, 7), np.uint16)),
        Image.fromarray(np.zeros((6, 7), np.int32)),
        Image.fromarray(np.zeros((6, 7), np.float32)),
        Image.new("I;16B", (7, 6)),
    ],
    ids=lambda picture: picture.mode,
)
def test_deep_pillow_images_are_refused(picture):
    with pytest.raises(UserError, match="samples: image 0: more than 8 bits a channel"):
        open_images([picture, picture])


AMBIGUOUS = [
    (64, 64, 3),
    (3, 64, 64),
    (64, 64, 1),
    (4, 64, 64),
    (64, 64, 4),
    (28, 28, 1000),
    (28, 28, 28),
    (5, 6, 7),
    (50, 6, 7),
    (6, 50, 6),
    (5, 3, 64, 3),
    (5, 1, 9, 1),
    (5, 3, 3, 3),
]


@pytest.mark.parametrize("shape", AMBIGUOUS, ids=str)
@pytest.mark.parametrize("door", ["npz", "npy", "array", "tensor", "floats"])
def test_ambiguous_axes_are_refused(shape, door, tmp_path):
    array = np.zeros(shape, np.uint8)
    np.savez(tmp_path / "x.npz", array)
    np.save(tmp_path / "x.npy", array)
    source = {
        "npz": tmp_path / "x.npz",
        "npy": tmp_path / "x.npy",
        "array": array,
        "tensor": torch.from_numpy(array),
        "floats": array.astype(np.float32),
    }[door]
    with pytest.raises(UserError) as refused:
        open_images(source)
    assert str(shape) in str(refused.value) and "(n, height, width, 3) is meant" in str(
        refused.value
    )


@pytest.mark.parametrize("shape", [(28, 28, 1000), (28, 28, 28), (9, 6, 7)], ids=str)
def test_the_fix_for_grey_stacks_gives_what_is_meant(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.raises(UserError) as refused:
        open_images(array)
    for fix, grey in (
        ("array[..., None]", array),
        ("array.transpose(2, 0, 1)[..., None]", np.moveaxis(array, -1, 0)),
    ):
        assert fix in str(refused.value)
        found = everything(open_images(eval(fix, {"array": array, "None": None})))
        assert np.array_equal(found, grey[..., None].repeat(3, -1))


@pytest.mark.parametrize("shape", [(6, 7), (7, 7), (28, 5), (5, 28)], ids=str)
def test_grey_items_of_a_list_have_one_meaning(shape):
    rows = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    for items in (list(rows), list(torch.from_numpy(rows)), [(row, 1) for row in rows]):
        assert np.array_equal(everything(open_images(items))[..., 0], rows)


@pytest.mark.parametrize("shape", [(3, 64, 3), (64, 3), (3, 3, 3)])
def test_ambiguous_items_of_a_list_are_refused(shape):
    with pytest.raises(UserError, match="image 0: shape .* is meant"):
        open_images([np.zeros(shape, np.uint8)] * 2)


@pytest.mark.parametrize("shape", [(5, 6, 7, 3), (5, 3, 6, 7), (5, 1, 6, 7), (2, 6, 7, 1)], ids=str)
def test_what_has_one_meaning_is_taken(shape):
    images = open_images(np.zeros(shape, np.uint8))
    assert (images.height, images.width) == (6, 7) and len(images) == shape[0]


@pytest.mark.parametrize("shape", [(5, 7, 7), (100, 28, 28), (1, 9, 9)], ids=str)
def test_square_grey_stacks_of_another_number_are_taken(shape):
    images = open_images(np.zeros(shape, np.uint8))
    assert (len(images), images.height, images.width) == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_of_any_precision_are_rounded_by_one_rule(dtype):
    x = torch.from_numpy(ROWS / 255.0).to(dtype).requires_grad_()
    expected = np.floor(x.detach().double().numpy() * 255 + 0.5)
    for source in (x, list(x), x.permute(0, 3, 1, 2)):
        found = everything(open_images(source))
        assert np.abs(found.astype(int) - expected).max() == 0
    if dtype == torch.float16:
        assert np.array_equal(everything(open_images(x.detach().numpy())), expected)


def test_the_digest_tells_shapes_apart():
    a = open_images(ROWS.reshape(5, 6, 7, 3)).digest()
    b = open_images(ROWS.reshape(5, 7, 6, 3)).digest()
    assert a != b and a == open_images(list(ROWS)).digest()


def test_chosen_images_in_any_order(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", ROWS, np.arange(5))
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "x").mkdir()
    for i, row in enumerate(ROWS):
        Image.fromarray(row).save(tmp_path / "x" / f"{i}.png")
    digests = set()
    for source in (ROWS, list(ROWS), *(tmp_path / name for name in ("x.npz", "x.npy", "x"))):
        images = open_images(source)
        chosen = images.take(np.array([4, 0, 1, 3]))
        assert np.array_equal(everything(chosen), ROWS[[4, 0, 1, 3]])
        again = chosen.take(np.array([1, 2]))
        assert np.array_equal(again.read(0, 2), ROWS[:2]) and np.array_equal(
            again.read(1, 2), ROWS[1:2]
        )
        digests |= {images.digest(), chosen.digest(), again.digest()}
        assert images.take(np.arange(5)) is images
    assert len(digests) == 12, "an array and its list are one set"
    assert chosen.names == ("4.png", "0.png", "1.png", "3.png")
