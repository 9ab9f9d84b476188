"""A user's own pictures, read from whatever they are kept in, once."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.folders import walk
from piflow_bench.preparation import pictures as module
from piflow_bench.preparation.picture_opening import stamp
from piflow_bench.preparation.pictures import open_pictures, prepare_pictures, split
from tests.preparation import own_pictures as own

FASHION = Path("/usr/share/datasets/fashion-mnist")
LABELS = [0] * 12 + [1] * 12
DIGEST = "1f2122a5a14b521425a51554d1a103c0bc4b407a142801193542999b5eeca7aa"
"""Of ``pixels()`` in two classes."""


@pytest.fixture
def array():
    return own.pixels()


@pytest.fixture
def source(tmp_path, array):
    return own.folder(tmp_path / "x", array)


class TestFormats:
    """The same pixels come out of every form that keeps them."""

    FORMS = {
        "png": lambda at, x: own.folder(at / "x", x),
        "bmp": lambda at, x: own.folder(at / "x", x, suffix="bmp"),
        "webp": lambda at, x: own.folder(at / "x", x, suffix="webp", lossless=True),
        "capitals": lambda at, x: own.folder(at / "x", x, own.names(24, "PNG")),
        "wrapped": lambda at, x: own.folder(at / "x/data", x).parent,
        "deeper": lambda at, x: own.folder(
            at / "x", x, [n.replace("/", "/more/") for n in own.names()]
        ),
        "zip": lambda at, x: own.packed(at / "x.zip", x),
        "tar": lambda at, x: own.packed(at / "x.tar", x),
        "tar.gz": lambda at, x: own.packed(at / "x.tar.gz", x),
        "parquet": lambda at, x: own.parquet(at / "x.parquet", x, LABELS),
        "npz": lambda at, x: npz(at, arr_0=x, arr_1=np.repeat(own.CLASSES, 12)),
        "npz, channels first": lambda at, x: npz(
            at, images=x.transpose(0, 3, 1, 2), labels=np.repeat(own.CLASSES, 12)
        ),
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_classes_and_pixels_are_the_same(self, form, array, tmp_path):
        found = prepare_pictures(self.FORMS[form](tmp_path, array), tmp_path / "out")
        assert isinstance(found.images, np.memmap) and found.images.dtype == np.uint8
        assert np.array_equal(found.images, array)
        assert found.labels.dtype == np.int64 and found.labels.tolist() == LABELS
        assert found.classes == own.CLASSES and found.train is None
        assert found.digest == DIGEST and len(found) == 24
        content = Path(tmp_path, "out", "images.npy").read_bytes()
        assert hashlib.sha256(content).hexdigest() == found.facts["images"]

    def test_jpegs_are_as_pillow_reads_them(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array, suffix="jpg", quality=60)
        found = prepare_pictures(source, tmp_path / "out")
        read = [np.asarray(Image.open(source / name)) for name in own.names(24, "jpg")]
        assert np.array_equal(found.images, read) and not np.array_equal(found.images, array)
        assert any("lossy" in text for text in found.cautions)

    def test_flat_folders_and_npy_files_have_no_classes(self, array, tmp_path):
        own.folder(tmp_path / "x", array, [f"{i}.png" for i in range(24)])
        np.save(tmp_path / "x.npy", array)
        found = [prepare_pictures(tmp_path / n, tmp_path / f"out{n}") for n in ("x", "x.npy")]
        for each in found:
            assert each.labels is None and each.classes is None
            assert np.array_equal(each.images, array)
        assert found[0].digest == found[1].digest != DIGEST

    def test_grey_pictures_keep_one_channel_where_all_are(self, tmp_path):
        grey = own.pixels(channels=1)
        own.folder(tmp_path / "x", grey)
        np.savez(tmp_path / "x.npz", arr_0=grey)
        np.save(tmp_path / "x.npy", grey.repeat(3, 3))
        for name, channels in (("x", 1), ("x.npz", 1), ("x.npy", 3)):
            found = prepare_pictures(tmp_path / name, tmp_path / f"out{name}")
            assert found.images.shape == (24, 6, 8, channels)
            assert np.array_equal(found.images[..., :1], grey)
        own.folder(tmp_path / "x", own.pixels(1), ["ant/0.png"])
        found = prepare_pictures(tmp_path / "x", tmp_path / "out")
        assert found.images.shape[3] == 3 and np.array_equal(found.images[1:, ..., 2:], grey[1:])
        assert found.cautions == ("23 of 24 images are grey and were given three channels",)

    def test_alpha_is_dropped_and_palettes_are_looked_up(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array)
        clear = np.concatenate([array[0], np.zeros((6, 8, 1), np.uint8)], 2)
        Image.fromarray(clear).save(source / "ant/0.png")
        few = Image.fromarray(array[1]).quantize(4)
        few.save(source / "ant/1.png")
        found = prepare_pictures(source, tmp_path / "out")
        assert np.array_equal(found.images[0], array[0])
        assert np.array_equal(found.images[1], few.convert("RGB"))
        assert any("1 of 24 files have transparency" in text for text in found.cautions)

    def test_files_that_ask_to_be_turned_are_told_of(self, array, tmp_path):
        source, exif = own.folder(tmp_path / "x", array, suffix="jpg"), Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(array[0]).save(source / "ant/0.jpg", exif=exif)
        found = prepare_pictures(source, tmp_path / "out")
        assert found.images.shape[1:3] == (6, 8)
        assert any("1 of 24 files ask to be turned" in text for text in found.cautions)


def npz(at, **arrays):
    np.savez_compressed(at / "x.npz", **arrays)
    return at / "x.npz"


class TestParts:
    """A source that is split is taken so."""

    PARTS = [f"train/{n}" for n in own.names(16)] + [f"val/{n}" for n in own.names(8)]

    @pytest.mark.parametrize("form", ["folder", "wrapped", "tar"])
    def test_of_folders(self, form, array, tmp_path):
        if form == "tar":
            source = own.packed(tmp_path / "x.tar", array, self.PARTS)
        else:
            source = own.folder(tmp_path / "x", array, [
                {"wrapped": "train of all/"}.get(form, "") + name for name in self.PARTS
            ])  # fmt: skip
        found = prepare_pictures(source, tmp_path / "out")
        assert np.array_equal(found.images, array) and found.train == 16
        assert found.classes == own.CLASSES
        assert found.labels.tolist() == [0] * 8 + [1] * 8 + [0] * 4 + [1] * 4
        assert found.cautions == ("split as the source is: 16 in train, 8 held out in val",)
        train, held = split(found, 0.5, seed=3)
        assert train.tolist() == list(range(16)) and held.tolist() == list(range(16, 24))

    def test_one_of_several_is_held_out_and_others_are_left_out(self, tmp_path):
        array = own.pixels(36)
        places = [f"{part}/{i}.png" for i, part in enumerate(["val", "test", "train"] * 12)]
        found = prepare_pictures(own.folder(tmp_path / "x", array, places), tmp_path / "out")
        assert np.array_equal(found.images, [*array[2::3], *array[1::3]]) and found.train == 12
        assert found.cautions == (
            "split as the source is: 12 in train, 12 held out in test; 12 in val are left out",
        )

    def test_a_class_may_be_called_train(self, array, tmp_path):
        places = [f"{['train', 'bus'][i // 12]}/{i}.png" for i in range(24)]
        found = prepare_pictures(own.folder(tmp_path / "x", array, places), tmp_path / "out")
        assert found.classes == ("bus", "train") and found.train is None

    def test_of_parquet_files(self, array, tmp_path):
        root = tmp_path / "x"
        own.parquet(root / "data/test-00000-of-00001.parquet", array[16:], LABELS[:8])
        own.parquet(root / "data/train-00000-of-00002.parquet", array[:9], LABELS[8:17])
        own.parquet(root / "data/train-00001-of-00002.parquet", array[9:16], LABELS[:7])
        (root / "README.md").write_text("A data set.")
        found = prepare_pictures(root, tmp_path / "out")
        assert np.array_equal(found.images, array) and found.train == 16
        assert found.labels.tolist() == LABELS[8:17] + LABELS[:7] + LABELS[:8]

    @pytest.mark.parametrize("image, label", [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
    def test_of_npz_files(self, image, label, array, tmp_path):
        one_hot = np.eye(3)[np.arange(24) % 3]
        arrays = {
            image.format("test"): array[16:], label.format("test"): one_hot[16:],
            image.format("train"): array[:16], label.format("train"): one_hot[:16],
        }  # fmt: skip
        found = prepare_pictures(npz(tmp_path, **arrays), tmp_path / "out")
        assert np.array_equal(found.images, array) and found.train == 16
        assert found.labels.tolist() == [i % 3 for i in range(24)]

    def test_equal_pictures_on_both_sides_are_named(self, array, tmp_path):
        array[20] = array[3]
        array[22] = array[21]  # Both are held out.
        found = prepare_pictures(own.folder(tmp_path / "x", array, self.PARTS), tmp_path / "out")
        assert any(
            "1 of 8 held-out images are in the training part too, such as val/bee/4.png" in text
            for text in found.cautions
        ), found.cautions

    def test_classes_without_training_are_named(self, array, tmp_path):
        places = [name.replace("train/bee", "train/ant") for name in self.PARTS]
        found = prepare_pictures(own.folder(tmp_path / "x", array, places), tmp_path / "out")
        assert "1 of 2 classes have no training images: bee" in found.cautions


class TestIdx:
    def test_fashion_mnist_as_debian_packages_it(self, tmp_path):
        found = prepare_pictures(FASHION, tmp_path / "out")
        assert found.images.shape == (70000, 28, 28, 1) and found.train == 60000
        assert found.classes == tuple("0123456789")
        assert found.labels[:5].tolist() == [9, 0, 0, 3, 0]
        assert found.labels[60000:60005].tolist() == [9, 2, 1, 1, 6]
        assert np.bincount(found.labels[60000:]).tolist() == [1000] * 10
        # What is published of the training part.
        assert round(float(found.images[:60000].mean()) / 255, 4) == 0.2860

    @pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "letters-test-images.idx3-ubyte"])
    def test_one_file_with_its_labels(self, name, tmp_path):
        grey = own.pixels(channels=1)
        path = own.idx(tmp_path / "x" / name, grey[..., 0])
        beside = name.replace("images", "labels").replace("idx3", "idx1")
        own.idx(path.with_name(beside), np.arange(24) % 2)
        for source in (path, path.parent):
            found = prepare_pictures(source, tmp_path / f"out{source.name}")
            assert np.array_equal(found.images, grey) and found.train is None
            assert found.labels.tolist() == [0, 1] * 12

    @pytest.mark.parametrize("ways", ["packed", "both"])
    def test_pairs_packed_or_not(self, ways, tmp_path):
        grey, labels = own.pixels(channels=1)[..., 0], np.arange(24) % 3
        for part, rows in (("t10k", slice(16, 24)), ("train", slice(0, 16))):
            for kind, content in (("images-idx3", grey), ("labels-idx1", labels)):
                path = own.idx(tmp_path / f"x/{part}-{kind}-ubyte", content[rows])
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                if ways == "packed":
                    path.unlink()
        found = prepare_pictures(tmp_path / "x", tmp_path / "out")
        assert np.array_equal(found.images[..., 0], grey) and found.train == 16
        assert found.labels.tolist() == labels.tolist()
        assert found.cautions == ("split as the source is: 16 in train, 8 held out in t10k",)

    def test_its_labels_are_part_of_it(self, tmp_path):
        path = own.idx(tmp_path / "x/train-images-idx3-ubyte", own.pixels(channels=1)[..., 0])
        labels = path.with_name("train-labels-idx1-ubyte")
        for k in (0, 1):
            own.idx(labels, np.full(24, k))
            os.utime(labels, (k, k))
            assert prepare_pictures(path, tmp_path / "out").classes == (str(k),)

    def test_damage_is_refused(self, tmp_path):
        path = own.idx(tmp_path / "x/train-images-idx3-ubyte", own.pixels(channels=1)[..., 0])
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match="cannot be read whole"):
            prepare_pictures(path, tmp_path / "out")
        path.write_bytes(b"\0\0\x0d\3" + path.read_bytes()[4:])
        with pytest.raises(UserError, match="no idx file of unsigned bytes"):
            prepare_pictures(path, tmp_path / "out")


class TestCache:
    def test_it_is_taken_again_while_the_source_is_the_same(self, source, tmp_path, monkeypatch):
        told = []
        report = lambda share, text: told.append((share, text))  # noqa: E731
        first = prepare_pictures(source, tmp_path / "out", report=report)
        shares = [share for share, _ in told]
        assert shares == sorted(shares) and shares[-1] == 1 and shares[0] > 0
        monkeypatch.setattr(module, "open_source", None)
        again = prepare_pictures(source, tmp_path / "out", report=report)
        assert again.digest == first.digest and told[-1] == (1, "as prepared before")
        source.rename(tmp_path / "moved")
        assert prepare_pictures(tmp_path / "moved", tmp_path / "out").digest == first.digest
        assert open_pictures(tmp_path / "out").digest == first.digest
        # Only what is whole lies there, and the lock.
        assert {p.name for p in tmp_path.iterdir()} == {"moved", "out", ".out.lock"}
        assert len(list((tmp_path / "out").iterdir())) == 4

    def test_it_is_made_anew_where_anything_changes(self, source, array, tmp_path):
        def made(**settings):
            return prepare_pictures(source, tmp_path / "out", **settings)

        before = made()
        path = source / "ant/3.png"
        path.write_bytes(own.encoded(array[3, ::-1]))
        after = made()
        assert np.array_equal(after.images[3], array[3, ::-1]) and after.digest != before.digest
        assert np.array_equal(before.images[3], array[3])  # What is mapped stays.
        path.unlink()
        assert len(made()) == 23
        assert made(size=4).images.shape == (23, 4, 4, 3)
        assert made(size=4, crop="none").facts["crop"] == "none"
        assert made(labels="none").labels is None
        labels = tmp_path / "labels.txt"
        for last in "ab":
            labels.write_text("".join(f"{i} a\n" for i in range(23) if i != 3) + f"23 {last}")
            os.utime(labels, (0, ord(last)))
            assert made(labels=labels, size=4).classes == (("a",) if last == "a" else ("a", "b"))

    @pytest.mark.parametrize("what", ["name", "size", "time"])
    def test_names_sizes_and_times_tell_sources_apart(self, what, tmp_path):
        path = tmp_path / "x/0.png"
        own.folder(tmp_path / "x", own.pixels(2), ["0.png", "1.png"])
        os.utime(path, (5, 5))
        before = stamp(tmp_path / "x", walk(tmp_path / "x", "source"))
        if what == "name":
            path.rename(tmp_path / "x/00.png")
        elif what == "size":
            path.write_bytes(path.read_bytes() + b" ")
            os.utime(path, (5, 5))
        else:
            os.utime(path, (6, 6))
        assert stamp(tmp_path / "x", walk(tmp_path / "x", "source")) != before

    def test_the_digest_is_of_labels_and_classes_too(self, source, tmp_path):
        digests = {
            prepare_pictures(source, tmp_path / f"out{i}", labels=labels).digest
            for i, labels in enumerate([None, "none"])
        }
        (source / "bee").rename(source / "cat")
        digests.add(prepare_pictures(source, tmp_path / "out").digest)
        assert len(digests) == 3

    def test_what_is_damaged_is_made_anew(self, source, array, tmp_path):
        prepare_pictures(source, tmp_path / "out")
        images = tmp_path / "out/images.npy"
        images.write_bytes(images.read_bytes()[:-1])
        with pytest.raises(UserError, match="out: cannot be read .*prepare them anew"):
            open_pictures(tmp_path / "out")
        assert np.array_equal(prepare_pictures(source, tmp_path / "out").images, array)

    @pytest.mark.parametrize("name", ["images", "labels", "hashes"])
    def test_arrays_of_another_shape_are_not_taken(self, name, source, tmp_path):
        prepare_pictures(source, tmp_path / "out")
        path = tmp_path / f"out/{name}.npy"
        whole = np.load(path)
        np.save(path, whole[:, :-1] if name == "images" else whole[:-1])
        with pytest.raises(UserError, match="out: cannot be read"):
            open_pictures(tmp_path / "out")

    def test_remains_of_a_killed_call_are_cleared(self, source, tmp_path):
        (tmp_path / ".out.tmp/deep").mkdir(parents=True)
        (tmp_path / ".out.old").mkdir()
        prepare_pictures(source, tmp_path / "out")
        assert {p.name for p in tmp_path.iterdir()} == {"x", "out", ".out.lock"}
