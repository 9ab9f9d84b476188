"""Every entry of a folder is accounted for: taken, left out, warned of or refused."""

import os

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
        assert "1 .gif, 1 .npz, 1 .tif, 1 .tiff files are left out" in warning
        for path in list(tree.rglob("*.png")):
            path.unlink()
        with pytest.raises(UserError, match="no images in it.*1 .gif, 1 .npz"):
            open_images(tree)

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
