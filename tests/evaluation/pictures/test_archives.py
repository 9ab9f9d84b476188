"""Archives are what their folders are: the same rows, classes, digests, warnings and refusals."""

import io
import os
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures import archives
from piflow_bench.evaluation.pictures.opening import open_images

ROWS = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
KINDS = ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "X.ZIP", "x.TAR.BZ2"]
NAMES = [f"{'ba'[i // 6]}/{i}.png" for i in range(12)]


def png(row, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(row).save(file, format)
    return file.getvalue()


def content(names=NAMES):
    """Files by name, each with an image of its own."""
    return {name: png(row) for name, row in zip(names, ROWS, strict=False)}


def packed(path, files, links=(), prefix=""):
    """An archive of files, and of symbolic links ``(name, target)``."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(prefix + name, data)
            for name, target in links:
                info = zipfile.ZipInfo(prefix + name)
                info.external_attr = 0o120777 << 16
                archive.writestr(info, target)
        return path
    end = path.name.lower().rpartition(".")[2]
    mode = "w:" + {"tgz": "gz", "tar": ""}.get(end, end)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(prefix + name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


def written(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def told(images):
    return [text.partition(": ")[2] for text in images.warnings]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names",
    [NAMES, [f"{i}.png" for i in range(12)], [f"all/{i:02d}.png" for i in range(12)],
     [f"train/{'ab'[i % 2]}/{i}.bmp" for i in range(12)]],
    ids=["classes", "flat", "wrapper", "wrapped classes"],
)  # fmt: skip
def test_an_archive_is_its_folder(tmp_path, kind, names):
    # In an order that is neither that of letters nor that of numbers.
    files = dict(sorted(content(names).items(), key=lambda each: hash(each[1])))
    folder = open_images(written(tmp_path / "folder", files))
    archive = open_images(packed(tmp_path / kind, files))
    assert archive.names == folder.names and archive.digest() == folder.digest()
    assert np.array_equal(archive.read(0, 12), folder.read(0, 12))
    assert np.array_equal(archive.read(3, 5), folder.read(3, 5))
    places = np.array([7, 2, 2, 11])
    assert np.array_equal(archive.take(places).read(0, 4), folder.take(places).read(0, 4))
    assert told(archive) == told(folder)
    for labels in (archive.labels, folder.labels):
        assert (labels is None) == (not any("a/" in name for name in names))
    if folder.labels is not None:
        assert archive.labels.tolist() == folder.labels.tolist()


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tgz"])
@pytest.mark.parametrize("prefix", ["gen/", "./", "./gen/deep/", "/tmp/", "../../"])
def test_what_holds_all_is_no_class_and_unsafe_names_lead_nowhere(tmp_path, kind, prefix):
    (tmp_path / "in").mkdir()
    before = sorted(os.listdir(tmp_path))
    path = packed(tmp_path / "in" / kind, content(), prefix=prefix)
    images = open_images(path)
    assert images.labels.tolist() == ["a"] * 6 + ["b"] * 6
    assert np.array_equal(images.read(0, 12), np.roll(ROWS, 6, axis=0))
    assert sorted(os.listdir(tmp_path)) == before and os.listdir(tmp_path / "in") == [kind]


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tgz"])
class TestEntries:
    def test_hidden_ones_and_those_of_macos_are_left_out(self, tmp_path, kind):
        hidden = {".DS_Store": b"x", "a/._0.png": b"no image", ".cache/0.png": b"no image",
                  "__MACOSX/a/0.png": b"no image"}  # fmt: skip
        images = open_images(packed(tmp_path / kind, content() | hidden))
        assert len(images) == 12 and not images.warnings

    def test_other_files_are_told_of(self, tmp_path, kind):
        more = {"readme.txt": b"text", "a/7.gif": b"", "c/notes.md": b""}
        files = content() | more
        images = open_images(packed(tmp_path / kind, files))
        assert told(images) == told(open_images(written(tmp_path / "folder", files)))
        assert "3" not in told(images)[0] and "1 .gif, 1 .md, 1 .txt" in told(images)[0]
        assert "1 subfolder holds no images, such as c" in told(images)[1]

    def test_formats_and_transparency_are_told_of(self, tmp_path, kind):
        files = {f"{i}.png": png(row, "JPEG") for i, row in enumerate(ROWS[:3])}
        files["4.png"] = png(np.dstack([ROWS[3], ROWS[3, :, :, 0]]))
        texts = told(open_images(packed(tmp_path / kind, files)))
        assert texts[0].startswith("3 of 4 files are of a lossy format")
        assert texts[1].startswith("1 of 4 files have transparency")

    @pytest.mark.parametrize(
        "more, words",
        [
            ({"a/00": png(ROWS[0])}, "a/00: begins as an image but has no suffix.* 00.png"),
            ({"z.png": png(ROWS[0, :4])}, "several sizes: 6.png is 5x6, z.png is 5x4"),
            ({"z.png": b"text"}, "z.png: not a readable image"),
            ({"z.png": png(np.zeros((6, 5), np.uint16))}, "z.png: more than 8 bits"),
        ],
    )
    def test_refusals_are_those_of_folders(self, tmp_path, kind, more, words):
        files = content() | more
        for path in (packed(tmp_path / kind, files), written(tmp_path / "folder", files)):
            with pytest.raises(UserError, match=words) as error:
                open_images(path)
            assert "\n" not in str(error.value) and path.name in str(error.value)

    def test_no_images(self, tmp_path, kind):
        with pytest.raises(UserError, match=f"samples=.*{kind}: no images in it.*1 .txt file"):
            open_images(packed(tmp_path / kind, {"a.txt": b""}))

    def test_what_is_there_twice_is_refused(self, tmp_path, kind):
        path = packed(tmp_path / kind, {"0.png": png(ROWS[0]), "./0.png": png(ROWS[1])})
        with pytest.raises(UserError, match="0.png: is there twice"):
            open_images(path)

    def test_links_lead_to_images_of_the_archive(self, tmp_path, kind):
        path = packed(tmp_path / kind, content(), [("a/99.png", "../b/3.png")])
        images = open_images(path)
        assert len(images) == 13 and np.array_equal(images.read(6, 7)[0], ROWS[3])
        assert "1 of 13 images are the same file as another" in told(images)[0]
        for target in ("/etc/passwd", "../../x.png", "missing.png", "../b"):
            path = packed(tmp_path / kind, content(), [("a/99.png", target)])
            with pytest.raises(UserError, match="a/99.png: a link to .*, which is no image of"):
                open_images(path)

    def test_several_threads_read_it(self, tmp_path, kind):
        images, wrong = open_images(packed(tmp_path / kind, content()), workers=3), []
        expected = images.read(0, 12)

        def read():
            for i in range(20):
                if not np.array_equal(images.read(i % 12, i % 12 + 1)[0], expected[i % 12]):
                    wrong.append(i)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_damage_is_found_before_any_work(self, tmp_path, kind):
        path = packed(tmp_path / kind, {f"{i}.png": png(ROWS[i]) for i in range(9)})
        whole = path.read_bytes()
        for share in (5, 3, 2) if kind != "x.tar" else range(512, 9 * 1024, 512):
            path.write_bytes(whole[: share if share > 9 else len(whole) // share])
            with pytest.raises(UserError, match=f"{kind}.*cannot be read whole") as error:
                open_images(path)
            assert "\n" not in str(error.value)


def test_windows_separators(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in content().items():
            info = zipfile.ZipInfo(name)
            info.filename = name.replace("/", "\\")
            archive.writestr(info, data)
    assert open_images(tmp_path / "x.zip").labels.tolist() == ["a"] * 6 + ["b"] * 6


def test_encrypted_members_are_refused(tmp_path):
    path = packed(tmp_path / "x.zip", {"0.png": png(ROWS[0])})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # The flag, in the member's own header and in the list of all.
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted; pack the images anew"):
        open_images(path)


def test_hard_links_are_the_same_file(tmp_path):
    folder = written(tmp_path / "x", content())
    os.link(folder / "a" / "6.png", folder / "a" / "66.png")
    for kind in ("w:", "w:gz"):
        with tarfile.open(tmp_path / "x.tar", kind) as archive:
            archive.add(folder, "x")
        images = open_images(tmp_path / "x.tar")
        assert images.digest() == open_images(folder).digest()
        assert told(images) == told(open_images(folder))


def test_what_a_compressed_tar_holds_lies_in_a_file_without_a_name_where_it_is_much(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(archives, "IN_MEMORY", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    images = open_images(packed(tmp_path / "x.tgz", content()))
    assert np.array_equal(images.read(0, 12), np.roll(ROWS, 6, axis=0))
    assert not list((tmp_path / "t").iterdir())
