"""Sources of images: every kind gives the same rows, and bad ones are named."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.npz import write_npz
from piflow_bench.evaluation.pictures.opening import open_images


@pytest.fixture
def rows():
    return np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


def everything(images, size=3):
    return np.concatenate(list(images.batches(size)))


def folder_of(path, rows, suffix=".png", **options):
    path.mkdir(exist_ok=True)
    for i, row in enumerate(rows):
        Image.fromarray(row).save(path / f"{i:03d}{suffix}", **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_a_folder(tmp_path, rows, suffix):
    images = open_images(folder_of(tmp_path / "x [a]=b, c", rows, suffix))
    assert (len(images), images.height, images.width) == (7, 6, 5)
    assert (everything(images) == rows).all()
    assert (images.read(5, 7) == rows[5:]).all()
    assert not images.warnings


def test_webp_without_loss_and_jpeg_is_warned_of(tmp_path, rows):
    images = open_images(folder_of(tmp_path / "webp", rows, ".webp", lossless=True))
    assert (everything(images) == rows).all()
    images = open_images(folder_of(tmp_path / "jpg", rows, ".jpg"))
    assert "7 of 7 files are of a lossy format" in images.warnings[0]


def told_of(path):
    return [text.partition(": ")[2] for text in open_images(path).warnings]


class TestWhatHeadersTell:
    def test_lossy_formats_whatever_the_suffix(self, tmp_path, rows):
        images = folder_of(tmp_path / "x", rows[:4])
        for name, format in (("a.png", "JPEG"), ("b.bmp", "WEBP"), ("c.jpg", "PNG")):
            Image.fromarray(rows[5]).save(images / name, format=format)
        assert told_of(images)[0].startswith("2 of 7 files are of a lossy format")

    def test_several_frames(self, tmp_path, rows):
        images = folder_of(tmp_path / "x", rows[:4])
        frames = [Image.fromarray(row) for row in rows[4:]]
        for name in ("a.png", "b.webp"):
            frames[0].save(images / name, save_all=True, append_images=frames[1:], lossless=True)
        assert (
            told_of(images)[-1] == "2 of 6 files hold several frames, of which the first is taken"
        )
        assert np.array_equal(open_images(images).read(4, 6), rows[[4, 4]])

    def test_transparency(self, tmp_path, rows):
        images = folder_of(tmp_path / "x", rows[:4])
        Image.fromarray(np.dstack([rows[4], rows[4, :, :, 0]])).save(images / "a.png")
        Image.fromarray(rows[5, :, :, 0]).save(images / "b.png", transparency=0)
        assert told_of(images) == [
            "2 of 6 files have transparency, which is dropped and not blended"
        ]


def test_subfolders_in_the_order_of_their_paths(tmp_path, rows):
    folder_of(tmp_path / "b", rows[:3])
    folder_of(tmp_path / "a", rows[3:])
    assert (everything(open_images(tmp_path)) == np.concatenate([rows[3:], rows[:3]])).all()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz_is_streamed_in_any_order(tmp_path, rows, compression):
    path = tmp_path / "x.npz"
    (np.savez if compression == zipfile.ZIP_STORED else np.savez_compressed)(
        path, rows, np.arange(7)
    )
    images = open_images(path)
    assert (everything(images) == rows).all()
    assert (images.read(4, 6) == rows[4:6]).all() and (images.read(1, 2) == rows[1:2]).all()


def test_written_npz_reads_back_and_suits_numpy(tmp_path, rows):
    path = tmp_path / "x.npz"
    write_npz(path, iter([rows[:4], rows[4:]]), 7)
    assert (np.load(path)["arr_0"] == rows).all()
    assert (everything(open_images(path)) == rows).all()
    with pytest.raises(ValueError, match="announced"):
        write_npz(tmp_path / "short.npz", iter([rows[:4]]), 7)
    assert not list(tmp_path.glob("short*"))


def test_arrays_tensors_and_datasets_agree(tmp_path, rows):
    torch = pytest.importorskip("torch")
    np.save(tmp_path / "x.npy", rows)
    first = torch.from_numpy(rows).permute(0, 3, 1, 2)
    for source in (
        rows,
        rows.transpose(0, 3, 1, 2),
        first,
        rows.astype(np.float64) / 255,
        first.float() / 255,
        [(image, 3) for image in first],
        tmp_path / "x.npy",
        str(tmp_path / "x.npy"),
    ):
        images = open_images(source)
        assert (everything(images) == rows).all()
    assert open_images(rows).digest() == open_images(first.permute(0, 2, 3, 1)).digest()


def test_grey_alpha_and_palette_by_the_stated_rule(tmp_path, rows):
    grey = rows[0, :, :, 0]
    alpha = np.dstack([rows[1], np.full((6, 5), 7, np.uint8)])
    palette = Image.fromarray(rows[2]).quantize(8)
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(alpha).save(tmp_path / "1.png")
    palette.save(tmp_path / "2.png")
    found = everything(open_images(tmp_path))
    assert (found[0] == grey[..., None]).all()
    assert (found[1] == rows[1]).all()
    assert (found[2] == np.asarray(palette.convert("RGB"))).all()
    assert (everything(open_images(rows[:, :, :, :1])) == rows[:, :, :, :1]).all()


def test_the_digest_is_the_contents(tmp_path, rows):
    one, two = folder_of(tmp_path / "one", rows), folder_of(tmp_path / "two", rows)
    assert open_images(one).digest() == open_images(two).digest()
    Image.fromarray(255 - rows[3]).save(two / "003.png")
    assert open_images(one).digest() != open_images(two).digest()


def refused(source, *words):
    with pytest.raises(UserError) as error:
        everything(open_images(source))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


class TestBadInput:
    def test_missing_and_empty(self, tmp_path, rows):
        refused(tmp_path / "none", "none", "no such file")
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", "empty", "no images", ".png")
        refused(rows[:0], "no images")

    def test_mixed_sizes(self, tmp_path, rows):
        folder = folder_of(tmp_path / "x", rows)
        Image.fromarray(rows[0, :4]).save(folder / "004.png")
        refused(folder, "several sizes", "000.png is 5x6", "004.png is 5x4")

    def test_truncated_is_named(self, tmp_path, rows):
        folder = folder_of(tmp_path / "x", rows.repeat(20, 1).repeat(20, 2))
        whole = (folder / "005.png").read_bytes()
        (folder / "005.png").write_bytes(whole[: len(whole) // 2])
        refused(folder, "005.png")
        (folder / "005.png").write_bytes(b"text")
        refused(folder, "005.png", "not a readable image")

    def test_deep_png(self, tmp_path):
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "0.png")
        refused(tmp_path, "0.png", "8 bits")

    def test_npz_corrupt_wrong_key_truncated(self, tmp_path, rows):
        path = tmp_path / "x.npz"
        np.savez(path, images=rows)
        refused(path, "x.npz", "arr_0", "images")
        path.write_bytes(b"PK junk")
        refused(path, "x.npz", "not a whole npz")
        np.savez_compressed(path, rows.repeat(50, 0))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(bytes(data))
        refused(path, "x.npz", "damaged")

    def test_pickles_are_refused_unread(self, tmp_path, rows):
        class Bomb:
            def __reduce__(self):
                return (pytest.fail, ("unpickled",))

        objects = np.array([Bomb()], dtype=object)
        np.save(tmp_path / "x.npy", objects, allow_pickle=True)
        refused(tmp_path / "x.npy", "pickle")
        np.savez(tmp_path / "x.npz", objects)
        refused(tmp_path / "x.npz", "pickle")
        (tmp_path / "x.pkl").write_bytes(b"x")
        refused(tmp_path / "x.pkl", "pickled files are not read", "numpy.savez")

    def test_wrong_types_and_ranges(self, rows):
        refused(rows.astype(np.int32), "uint8", "int32")
        refused(rows.astype(np.float32), "[0, 1]", "(x + 1) / 2")
        refused(np.full((2, 4, 4, 3), np.nan), "not finite")
        refused(rows.reshape(7, -1), "(7, 90)", "(n, height, width, 3)")
        refused(3, "int")

    def test_npy_cut_short(self, tmp_path, rows):
        handle = io.BytesIO()
        np.save(handle, rows)
        (tmp_path / "x.npy").write_bytes(handle.getvalue()[:200])
        refused(tmp_path / "x.npy", "x.npy")


def test_a_dataset_is_read_piece_by_piece(rows):
    """Never as a whole: what a batch needs is all that is asked for."""
    asked = []

    class Items:
        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            asked.append(index)
            return np.moveaxis(rows[index], -1, 0), "label"

    images = open_images(Items())
    assert asked == [0]
    assert np.array_equal(images.read(1, 3), rows[1:3]) and asked == [0, 1, 2]
    assert images.digest() == open_images(rows).digest()
