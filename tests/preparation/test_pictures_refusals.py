"""A user's mistakes are one clear line, and nothing half-written stays."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from piflow_bench.errors import UserError
from piflow_bench.preparation import pictures as module
from piflow_bench.preparation.pictures import open_pictures, prepare_pictures
from tests.preparation import own_pictures as own


@pytest.fixture
def array():
    return own.pixels()


def refused(source, out, message, **settings):
    """The refusal's line matches, and what stays is what was there, and a lock at most."""
    before = {p.name for p in out.parent.iterdir()}
    with pytest.raises(UserError, match=message) as caught:
        prepare_pictures(source, out, **settings)
    assert "\n" not in str(caught.value)
    assert {p.name for p in out.parent.iterdir()} - before <= {f".{out.name}.lock"}


class TestSources:
    def test_nothing_there(self, tmp_path):
        refused(tmp_path / "x", tmp_path / "out", "source=.*x: no such file or folder")

    def test_no_images(self, tmp_path):
        (tmp_path / "x").mkdir()
        refused(tmp_path / "x", tmp_path / "out", "no images in it .*.png, .jpg")
        (tmp_path / "x/a.gif").write_bytes(b"GIF89a")
        refused(tmp_path / "x", tmp_path / "out", r"no images in it .*1 .gif file \(a.gif\) is not")
        own.packed(tmp_path / "x.zip", [])
        refused(tmp_path / "x.zip", tmp_path / "out", "no images in it")

    def test_too_few(self, tmp_path):
        source = own.folder(tmp_path / "x", own.pixels(19))
        refused(source, tmp_path / "out", "19 images are too few; 20 is least")
        own.folder(source, own.pixels(1), ["bee/more.png"])
        assert len(prepare_pictures(source, tmp_path / "out")) == 20

    def test_images_beside_class_folders(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array, ["a.png", "b.png", *own.names()[2:]])
        refused(source, tmp_path / "out", "2 of 24 images lie beside class folders, such as a.png; "
                "move them into one, or set labels=FILE, or labels=none")  # fmt: skip

    @pytest.mark.parametrize("form", ["folder", "zip", "tar.gz", "parquet"])
    @pytest.mark.parametrize("how", ["nothing", "noise", "half"])
    def test_images_that_cannot_be_read(self, form, how, tmp_path, monkeypatch):
        array = own.pixels(300, 24, 24)
        whole, bad = own.encoded, {b.tobytes() for b in array[[2, 5, 299]]}

        def damaged(one, suffix="png", **options):
            data = whole(one, suffix, **options)
            broken = {"nothing": b"", "noise": b"no image", "half": data[: len(data) // 2]}
            return broken[how] if one.tobytes() in bad else data

        monkeypatch.setattr(own, "encoded", damaged)
        if form == "folder":
            source = own.folder(tmp_path / "x", array, own.names(300))
        elif form == "parquet":
            source = own.parquet(tmp_path / "x.parquet", array)
        else:
            source = own.packed(tmp_path / f"x.{form}", array, own.names(300))
        refused(source, tmp_path / "out", r"source: .*x.*2\.png.*: (not a readable|cannot be read)"
                ".*; 3 of 300 images are refused")  # fmt: skip

    def test_more_than_8_bits(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array)
        Image.fromarray(np.zeros((6, 8), np.uint16)).save(source / "ant/0.png")
        refused(source, tmp_path / "out", "0.png: more than 8 bits a channel .*convert it")

    @pytest.mark.parametrize("name", ["x.pdf", "x.png", "x.7z"])
    def test_files_of_other_kinds(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"?")
        message = "one image; give the folder" if name == "x.png" else "no folder of images, arch"
        refused(tmp_path / name, tmp_path / "out", f"source=.*{name}: {message}")

    @pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.npz", "x.npy", "x.parquet"])
    def test_damaged_files(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"PK nothing of the kind")
        refused(
            tmp_path / name, tmp_path / "out", f"source.*{name}.*(cannot be read|whole|pickles)"
        )


class TestArrays:
    @pytest.mark.parametrize(
        "arrays, message",
        [
            ({"pixels": own.pixels()}, "holds pixels; images are written by numpy.savez"),
            ({"arr_0": own.pixels() / 255}, "images must be uint8"),
            ({"arr_0": own.pixels(), "arr_1": np.zeros(23, int)}, "23 labels for 24 images"),
            ({"arr_0": own.pixels(), "arr_1": np.full((24, 2), 0.5)}, "arr_1 holds no classes"),
            ({"x_train": own.pixels(), "y_train": np.zeros(24, int), "x_test": own.pixels()},
             "labels for one part alone"),
        ],
    )  # fmt: skip
    def test_of_npz_files(self, arrays, message, tmp_path):
        np.savez(tmp_path / "x.npz", **arrays)
        refused(tmp_path / "x.npz", tmp_path / "out", f"source=.*x.npz: .*{message}")

    @pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_arrays_that_are_shorter_than_they_say(self, how, array, tmp_path):
        file = io.BytesIO()
        np.save(file, array)
        with zipfile.ZipFile(tmp_path / "x.npz", "w", how) as archive:
            archive.writestr("arr_0.npy", file.getvalue().replace(b"(24, 6", b"(25, 6"))
        refused(tmp_path / "x.npz", tmp_path / "out", "x.npz: arr_0: cannot be read whole")

    def test_several_idx_sets(self, tmp_path):
        for name in ("a-train", "b-train"):
            own.idx(tmp_path / f"x/{name}-images-idx3-ubyte", own.pixels(channels=1)[..., 0])
        refused(tmp_path / "x", tmp_path / "out", "several sets, such as a-train.* and b-train")


class TestTables:
    @pytest.mark.parametrize("labels", [[-1] * 24, [None] + [0] * 23, [2] + [0] * 23])
    def test_labels_that_are_no_classes(self, labels, array, tmp_path):
        path = own.parquet(tmp_path / "x.parquet", array, labels)
        refused(path, tmp_path / "out", "label is (-1|None|2), which is no class; .*labels=none")

    def test_other_columns(self, array, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": ["a"] * 24}), tmp_path / "x.parquet")
        refused(tmp_path / "x.parquet", tmp_path / "out", "needs one column of images.*only text")
        own.parquet(tmp_path / "y/a.parquet", array, [0] * 24)
        own.parquet(tmp_path / "y/b.parquet", array)
        refused(tmp_path / "y", tmp_path / "out", "b.parquet: needs columns image and label as the")

    def test_several_columns_of_classes(self, array, tmp_path):
        import json

        import pyarrow.parquet as pq

        path = own.parquet(tmp_path / "x.parquet", array, [0] * 24)
        table = pq.read_table(path).append_column("coarse", [[0] * 24])
        features = {name: {"_type": "ClassLabel", "names": ["a"]} for name in ("label", "coarse")}
        told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        pq.write_table(table.replace_schema_metadata(told), path)
        refused(path, tmp_path / "out", "columns of classes, label, coarse; choose labels=COLUMN")
        assert prepare_pictures(path, tmp_path / "out", labels="coarse").classes == ("a",)


class TestPlaces:
    def test_what_is_not_ours_is_not_touched(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array)
        (tmp_path / "out").mkdir()
        assert len(prepare_pictures(source, tmp_path / "out")) == 24  # An empty one will do.
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis/all.tex").write_text("...")
        refused(source, tmp_path / "thesis", "out=.*thesis: holds other files; choose an empty")
        refused(source, tmp_path / "thesis/all.tex", "holds other files")
        assert (tmp_path / "thesis/all.tex").read_text() == "..."

    def test_what_lies_in_the_source(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array)
        refused(source, source / "out", "out=.*x/out: lies in source=.*choose a folder elsewhere")
        refused(source, source, "lies in source=")

    def test_full_disks(self, array, tmp_path, monkeypatch):
        source = own.folder(tmp_path / "x", array)
        usage = module.shutil.disk_usage(tmp_path)._replace(free=24 * 6 * 8 * 3 - 1)
        with monkeypatch.context() as patch:
            patch.setattr(module.shutil, "disk_usage", lambda path: usage)
            refused(source, tmp_path / "out", "GB of pictures, .* GB free; choose another disk")

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "write", full)
        refused(source, tmp_path / "out", "out=.*: cannot be written .No space left on device")

    def test_labels_that_are_not_there(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array)
        refused(source, tmp_path / "out", "labels=a.csv: no such file", labels="a.csv")

    def test_an_older_one_stays_where_the_new_one_is_refused(self, array, tmp_path):
        source = own.folder(tmp_path / "x", array)
        before = prepare_pictures(source, tmp_path / "out").digest
        path = source / "bee/20.png"
        path.write_bytes(path.read_bytes()[:70])
        refused(source, tmp_path / "out", "20.png: cannot be read")
        assert open_pictures(tmp_path / "out").digest == before

    @pytest.mark.parametrize("content", [None, "{", '{"format": 0}', '{"format": 1}'])
    def test_what_is_no_prepared_folder(self, content, tmp_path):
        if content:
            (tmp_path / "pictures.json").write_text(content)
        with pytest.raises(UserError, match="pictures=.*prepare them anew"):
            open_pictures(tmp_path)
