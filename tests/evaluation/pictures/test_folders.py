"""Every entry of a folder is accounted for: taken, left out, warned of or refused."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures import folders
from piflow_bench.evaluation.pictures.opening import open_images


@pytest.fixture
def tree(tmp_path):
    """Two classes of three images."""
    for i in range(6):
        path = tmp_path / "x" / "ab"[i // 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), i, np.uint8)).save(path)
    return tmp_path / "x"


def shades(images):
    return images.read(0, len(images))[:, 0, 0, 0].tolist()


class TestLinks:
    def test_class_folders_and_files_are_followed(self, tree, tmp_path):
        (tree / "b").rename(tmp_path / "elsewhere")
        (tree / "b").symlink_to(tmp_path / "elsewhere")
        (tree / "a" / "0.png").rename(tmp_path / "0.png")
        (tree / "a" / "0.png").symlink_to("../../0.png")
        (tmp_path / "whole").symlink_to(tree)
        for path in (tree, tmp_path / "whole"):
            images = open_images(path)
            assert shades(images) == [0, 1, 2, 3, 4, 5] and not images.warnings
            assert images.labels.tolist() == ["a"] * 3 + ["b"] * 3

    @pytest.mark.parametrize("name", ["c", "a/9.png", "notes.txt"])
    def test_links_to_nothing_are_refused(self, tree, name):
        (tree / name).symlink_to("missing")
        with pytest.raises(UserError, match=f"samples: .*{name}: a link to missing, where nothing"):
            open_images(tree)

    @pytest.mark.parametrize("target", [".", "..", "../..", "../a"])
    def test_folders_that_hold_themselves_are_refused(self, tree, target):
        (tree / "a" / "again").symlink_to(target)
        with pytest.raises(UserError, match="again: a link to a folder that holds it"):
            open_images(tree)

    def test_links_in_a_circle_are_refused(self, tree):
        (tree / "c").symlink_to("d")
        (tree / "d").symlink_to("c")
        with pytest.raises(UserError, match="a link to [cd], where nothing is"):
            open_images(tree)

    def test_what_is_there_twice_is_warned_of(self, tree):
        (tree / "latest").symlink_to("a")
        images = open_images(tree)
        assert len(images) == 9
        assert "3 of 9 images are the same file as another" in images.warnings[0]
        os.link(tree / "b" / "3.png", tree / "b" / "33.png")
        assert "4 of 10" in open_images(tree).warnings[0]


class TestOtherEntries:
    def test_hidden_ones_are_left_out(self, tree):
        (tree / ".ipynb_checkpoints").mkdir()
        (tree / ".ipynb_checkpoints" / "1.png").write_bytes(b"no image")
        (tree / "a" / "._0.png").write_bytes(b"what macOS leaves in archives")
        (tree / ".lost").symlink_to("nothing")
        images = open_images(tree)
        assert shades(images) == [0, 1, 2, 3, 4, 5] and not images.warnings

    def test_other_image_types_are_counted(self, tree):
        for name in ("7.tif", "a/8.TIFF", "b/9.gif", "more.npz", "readme.txt", "a/labels.json"):
            (tree / name).write_bytes(b"")
        (warning,) = open_images(tree).warnings
        assert "1 .gif, 1 .json, 1 .npz, 1 .tif, 1 .tiff, 1 .txt files (such as" in warning
        assert "(such as 7.tif) are left out" in warning
        for path in list(tree.rglob("*.png")):
            path.unlink()
        with pytest.raises(UserError, match="no images in it.*1 .gif, 1 .json, 1 .npz"):
            open_images(tree)

    @pytest.mark.parametrize(
        "names, words",
        [
            (["a/notes.txt"], "1 .txt file (a/notes.txt) is left out"),
            (["LICENSE", "a/7"], "2 without suffix files (such as LICENSE) are left out"),
            (["0.png.bak", "1.png~"], "1 .bak, 1 .png~ files (such as 0.png.bak) are left out"),
            ([f"{i}.x{i % 8}" for i in range(17)], "3 .x0, 2 .x1, 2 .x2, 2 .x3, 2 .x4, 2 .x5 and"),
            (["images.0001", "b/é.json"], "1 .0001, 1 .json files"),
        ],
    )  # fmt: skip
    def test_whatever_else_lies_there_is_counted(self, tree, names, words):
        for name in names:
            (tree / name).write_text("no image")
        (warning,) = open_images(tree).warnings
        assert words in warning and "read are .png" in warning

    @pytest.mark.parametrize("name", ["a/0007", "b/img.0001", "7", "a.b/x.12"])
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
    def test_images_without_a_suffix_are_refused(self, tree, name, suffix):
        (tree / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tree / f"x{suffix}")
        (tree / f"x{suffix}").rename(tree / name)
        with pytest.raises(UserError, match=f"{name}: begins as an image .* call it .*{suffix}$"):
            open_images(tree)

    def test_two_files_of_one_name_are_told_of(self, tree):
        for name in ("0", "2"):
            image = Image.open(tree / "a" / f"{name}.png")
            image.save(tree / "a" / f"{name}.bmp")
        (text,) = open_images(tree).warnings
        assert text.endswith("2 of 8 images are called like another one but for the suffix")

    @pytest.mark.parametrize("content", [b"", b"BM", b"BMW and others", b"RIFF1234WAVEfmt "])
    def test_what_only_begins_alike_is_no_image(self, tree, content):
        (tree / "file").write_bytes(content)
        assert "1 without suffix file (file) is left out" in open_images(tree).warnings[0]

    def test_what_is_no_file_is_not_opened(self, tree):
        os.mkfifo(tree / "pipe")
        assert "(pipe) is left out" in open_images(tree).warnings[0]

    @pytest.mark.parametrize(
        "made, words",
        [
            (["c"], "1 subfolder holds no images, such as c"),
            (["c/d/e", "a/f"], "2 subfolders hold no images, such as a/f"),
            ([f"c{i}" for i in (10, 9, 2)], "3 subfolders hold no images, such as c2"),
            (["__MACOSX/a"], "1 subfolder holds no images, such as __MACOSX"),
        ],
    )
    def test_empty_class_folders_are_told_of(self, tree, made, words):
        for name in made:
            (tree / name).mkdir(parents=True)
        images = open_images(tree)
        (warning,) = images.warnings
        assert warning.endswith(words) and set(images.labels) == {"a", "b"}

    def test_images_beside_the_class_folders_are_told_of(self, tree):
        (tree / "a" / "1.png").rename(tree / "1.png")
        images = open_images(tree)
        assert images.labels is None and "1 of 6 images lie beside" in images.warnings[0]

    def test_what_is_no_file_is_refused(self, tree):
        os.mkfifo(tree / "a" / "pipe.png")
        with pytest.raises(UserError, match="pipe.png: no file"):
            open_images(tree)

    def test_what_cannot_be_read_is_refused(self, tree, monkeypatch):
        # Whoever runs this may be allowed to read everything.
        scandir = os.scandir

        def closed(path):
            if str(path).endswith("b"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(folders.os, "scandir", closed)
        with pytest.raises(UserError, match="samples: .*/b: cannot be listed .Permission denied"):
            open_images(tree)

    def test_unreadable_images_are_refused_before_any_work(self, tree, monkeypatch):
        opened = Image.open

        def closed(path, *rest):
            if str(path).endswith("4.png"):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *rest)

        monkeypatch.setattr(Image, "open", closed)
        with pytest.raises(UserError, match=r"4.png: cannot be read whole"):
            open_images(tree)


class TestWrappers:
    """A folder that holds all images says nothing of their classes."""

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_they_are_no_class(self, tree, tmp_path, depth):
        outer = tmp_path / "outer"
        inner = outer.joinpath(*["samples", "images", "png"][:depth])
        inner.parent.mkdir(parents=True)
        (tree / "a").rename(inner)
        images = open_images(outer)
        assert images.labels is None and not images.warnings and shades(images) == [0, 1, 2]

    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_the_classes_are_within(self, tree, tmp_path, depth):
        outer = tmp_path / "outer"
        inner = outer.joinpath(*["samples", "images", "png"][:depth])
        inner.parent.mkdir(parents=True)
        tree.rename(inner)
        (outer / "samples" / ".cache").mkdir()
        (outer / "readme.txt").write_text("")
        images = open_images(outer)
        assert images.labels.tolist() == ["a"] * 3 + ["b"] * 3
        (inner / "9.png").write_bytes((inner / "a" / "0.png").read_bytes())
        images = open_images(outer)
        assert images.labels is None and "1 of 7 images lie beside" in images.warnings[-1]

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_two_levels_of_subfolders_are_told_of(self, tree, tmp_path, wrapped):
        """A folder of splits, each with the classes: the classes meant may be the inner ones."""
        outer = tmp_path / "outer" / "all" if wrapped else tmp_path / "outer"
        for split in ("train", "val"):
            for name in "ab":
                (outer / split / name).mkdir(parents=True)
                for path in (tree / name).iterdir():
                    (outer / split / name / path.name).write_bytes(path.read_bytes())
        images = open_images(tmp_path / "outer")
        assert set(images.labels) == {"train", "val"}
        (text,) = images.warnings
        assert text.endswith("subfolders, such as train, and not the 2 within them, such as a")
        for split in ("train", "val"):
            shutil.rmtree(outer / split / "b")
        assert not open_images(tmp_path / "outer").warnings, "every image lies in an a"

    def test_folders_within_classes_are_none(self, tree):
        for name in ("x", "y"):
            (tree / "a" / name).mkdir()
        (tree / "a" / "0.png").rename(tree / "a" / "x" / "0.png")
        (tree / "a" / "1.png").rename(tree / "a" / "y" / "1.png")
        assert sorted(open_images(tree).labels) == ["a"] * 3 + ["b"] * 3
