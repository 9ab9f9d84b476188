"""One size for all pictures, by rules that have names."""

import numpy as np
import pytest
from PIL import Image

from piflow_bench.errors import UserError
from piflow_bench.preparation.picture_sizes import as_size, fitted
from piflow_bench.preparation.pictures import prepare_pictures
from piflow_bench.preparation.pixels import centre_crop
from tests.preparation import own_pictures as own


def ramp(height, width, channels=1):
    """Columns of one shade, from black to white."""
    row = np.linspace(0, 255, width).round().astype(np.uint8)
    return np.tile(row[None, :, None], (height, 1, channels))


class TestRules:
    @pytest.mark.parametrize("crop", ["centre", "none", "adm"])
    def test_what_has_the_size_is_as_it_was(self, crop):
        one = own.pixels(1, 8, 8)[0]
        assert fitted(one, (8, 8), crop) is one

    def test_the_centre_is_cropped_without_resizing_where_a_side_fits(self):
        one = own.pixels(1, 6, 10)[0]
        assert np.array_equal(fitted(one, (6, 6), "centre"), one[:, 2:8])
        assert np.array_equal(fitted(one, (4, 10), "centre"), one[1:5])

    @pytest.mark.parametrize("shape", [(64, 96), (97, 64), (64, 64), (33, 200), (9, 9)])
    @pytest.mark.parametrize("size", [(16, 16), (16, 24), (31, 7)])
    @pytest.mark.parametrize("crop", ["centre", "none"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_all_sizes_come_out_and_flat_stays_flat(self, shape, size, crop, channels):
        flat = np.full((*shape, channels), 77, np.uint8)
        out = fitted(flat, size, crop)
        assert out.shape == (*size, channels) and (out == 77).all()

    def test_resizing_takes_means_and_no_samples(self):
        lines = np.zeros((64, 64, 1), np.uint8)
        lines[:, ::2] = 255  # Nearest neighbours would be black or white.
        for crop in ("centre", "none"):
            assert np.abs(fitted(lines, (8, 8), crop).astype(int) - 127).max() < 25

    def test_the_centre_stays_the_centre_and_none_keeps_all(self):
        wide = ramp(20, 80)
        square, whole = (fitted(wide, (10, 10), crop)[0, :, 0] for crop in ("centre", "none"))
        assert 90 < square[0] < 110 and 145 < square[-1] < 165
        assert whole[0] < 20 and whole[-1] > 235
        for found in (square, whole):  # Seen in a mirror, it is the mirror image.
            assert np.abs(found.astype(int) + found[::-1] - 255).max() <= 1

    def test_adm_is_the_one_of_imagenet(self):
        one = own.pixels(1, 70, 50)[0]
        expected = np.asarray(centre_crop(Image.fromarray(one), 16))
        assert np.array_equal(fitted(one, (16, 16), "adm"), expected)
        assert not np.array_equal(fitted(one, (16, 16), "centre"), expected)

    @pytest.mark.parametrize("size", [0, -3, [4], [4, 5, 6], [4, 0], 2.5, ["4", "4"], True])
    def test_no_sizes_are_refused(self, size):
        with pytest.raises(UserError, match="size=.*SIDE or"):
            as_size(size, "centre")

    def test_unknown_rules_are_refused(self):
        with pytest.raises(UserError, match="crop=center: did you mean 'centre'"):
            as_size(4, "center")
        with pytest.raises(UserError, match="crop=adm makes squares"):
            as_size((4, 5), "adm")
        assert as_size((4, 5), "none") == (4, 5) and as_size(None, "none") is None


class TestPictures:
    def test_height_comes_first(self, tmp_path):
        array = own.pixels(24, 8, 8)
        source = own.folder(tmp_path / "x", array)
        found = prepare_pictures(source, tmp_path / "out", size=[4, 8])
        assert np.array_equal(found.images, array[:, 2:6])
        assert found.facts["size"] == [4, 8] and found.facts["crop"] == "centre"
        assert "24 of 24 images are of another aspect than 8x4 and lost what is beyond the crop, " \
            "such as ant/0.png, 8x8" in found.cautions  # fmt: skip

    def test_what_is_enlarged_or_stretched_is_told(self, tmp_path):
        source = own.folder(tmp_path / "x", own.pixels(23, 16, 16))
        own.folder(source, own.pixels(1, 10, 20), ["bee/small.png"])
        found = prepare_pictures(source, tmp_path / "out", size=16, crop="none")
        assert found.cautions == (
            "1 of 24 images are smaller than 16x16 and were enlarged, such as bee/small.png, 20x10",
            "1 of 24 images are of another aspect than 16x16 and were stretched, such as "
            "bee/small.png, 20x10",
        )
        assert not prepare_pictures(own.folder(tmp_path / "y", own.pixels(24, 16, 16)),
                                    tmp_path / "out", size=8).cautions  # fmt: skip

    def test_several_sizes_need_one(self, tmp_path):
        source = own.folder(tmp_path / "x", own.pixels(23, 6, 8))
        own.folder(source, own.pixels(1, 9, 9), ["ant/0.png"])
        expected = (
            r"source=.*x: images of 2 sizes: 22 of 23 are 8x6, ant/0.png is 9x9; set size=6 .* or "
            r"size=\[HEIGHT, WIDTH\]"
        )
        with pytest.raises(UserError, match=expected):
            prepare_pictures(source, tmp_path / "out")
        assert {p.name for p in tmp_path.iterdir()} == {"x"}


class TestPad:
    @pytest.mark.parametrize("shape", [(28, 28, 1), (27, 28, 3), (32, 31, 1), (1, 1, 3)])
    def test_every_pixel_stays_as_it_is_in_a_black_frame(self, shape):
        one = own.pixels(1, *shape[:2])[0][..., : shape[2]]
        out = fitted(one, (32, 32), "pad")
        top, left = (32 - shape[0]) // 2, (32 - shape[1]) // 2
        assert np.array_equal(out[top : top + shape[0], left : left + shape[1]], one)
        assert out.sum() == one.sum() and out.shape == (32, 32, one.shape[2])

    def test_a_frame_is_no_change_that_needs_a_caution(self, tmp_path):
        source = own.folder(tmp_path / "x", own.pixels(24, 6, 8))
        found = prepare_pictures(source, tmp_path / "out", size=[8, 12], crop="pad")
        assert found.images.shape[1:3] == (8, 12) and found.facts["crop"] == "pad"
        assert not any("enlarged" in each or "aspect" in each for each in found.cautions)

    def test_larger_pictures_are_refused_before_any_is_written(self, tmp_path):
        source = own.folder(tmp_path / "x", own.pixels(24, 6, 8))
        with pytest.raises(UserError, match=r"24 of 24 images are larger than 7x7.*size=\[6,8\]"):
            prepare_pictures(source, tmp_path / "out", size=7, crop="pad")
        assert not (tmp_path / "out").exists()
