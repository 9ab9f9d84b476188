"""Held out by what pictures show: every class its share, equal pictures together, any order."""

import numpy as np
import pytest

from piflow_bench.errors import UserError
from piflow_bench.preparation.picture_split import split_rows
from piflow_bench.preparation.pictures import prepare_pictures, split
from tests.preparation import own_pictures as own


def hashes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)


def held(found, labels, *arguments):
    """How many of each class are held out."""
    train, out = split_rows(found, labels, *arguments)
    assert sorted([*train, *out]) == list(range(len(found)))
    assert train.dtype == out.dtype == np.int64 and (np.diff(out) > 0).all()
    return np.bincount(labels[out], minlength=labels.max() + 1).tolist()


class TestShares:
    def test_every_class_gives_its_share(self):
        labels = np.repeat([0, 1, 2], [100, 50, 10])
        assert held(hashes(160), labels, 0.1, 0) == [10, 5, 1]
        assert held(hashes(160), labels, 32, 0) == [20, 10, 2]

    def test_what_is_left_goes_to_the_largest_remainders(self):
        labels = np.repeat([0, 1, 2], [14, 13, 13])
        assert held(hashes(40), labels, 10, 0) == [4, 3, 3]  # Of 3.5, 3.25 and 3.25.

    def test_the_least_is_one_and_large_classes_give_way_to_it(self):
        labels = np.repeat(np.arange(6), [200, 100, 3, 3, 3, 3])
        assert held(hashes(312), labels, 10, 0) == [4, 2, 1, 1, 1, 1]
        assert held(hashes(312), labels, 0.01, 0) == [1] * 6

    def test_no_class_gives_all(self):
        labels = np.repeat([0, 1], [30, 2])
        assert held(hashes(32), labels, 0.9, 0) == [28, 1]
        assert held(hashes(32), labels, 31, 0) == [29, 1]

    def test_a_class_of_one_picture_is_trained_on(self):
        labels = np.repeat([0, 1], [30, 1])
        assert held(hashes(31), labels, 0.2, 0) == [6, 0]

    def test_without_classes_the_share_is_of_all(self):
        assert [len(side) for side in split_rows(hashes(40), None, 0.25, 0)] == [30, 10]


class TestChoice:
    def test_the_seed_decides(self):
        found = hashes(200)
        first, again, other = (split_rows(found, None, 0.2, seed)[1] for seed in (0, 0, 1))
        assert np.array_equal(first, again) and not np.array_equal(first, other)
        assert 0 < len(np.intersect1d(first, other)) < 20  # 8 are to be expected.

    def test_the_order_of_the_pictures_does_not(self):
        found, labels = hashes(60), np.arange(60) % 3
        mixed = np.random.default_rng(1).permutation(60)
        out = split_rows(found, labels, 0.2, 0)[1]
        assert sorted(mixed[split_rows(found[mixed], labels[mixed], 0.2, 0)[1]]) == out.tolist()

    def test_a_few_more_pictures_move_few(self):
        found = hashes(1010)
        before = split_rows(found[:1000], None, 100, 0)[1]
        after = split_rows(found, None, 100, 0)[1]
        assert len(np.intersect1d(before, after)) >= 90

    def test_it_is_known(self):
        assert split_rows(hashes(20), None, 4, 0)[1].tolist() == [6, 12, 16, 17]


class TestEqualPictures:
    def test_they_are_on_one_side(self):
        found = hashes(100)[np.arange(300) % 100]
        labels = np.arange(300) % 100 % 4
        for seed in range(5):
            train, out = split_rows(found, labels, 0.2, seed)
            assert not {r.tobytes() for r in found[train]} & {r.tobytes() for r in found[out]}
            assert len(out) == 60 and np.bincount(labels[out]).tolist() == [15] * 4

    def test_those_of_several_classes_too(self):
        found, labels = hashes(40), np.arange(40) % 2
        found[1], found[5] = found[0], found[0]
        for seed in range(20):
            train, out = split_rows(found, labels, 0.3, seed)
            assert len(np.intersect1d(out, [0, 1, 5])) in (0, 3)

    def test_in_any_order(self):
        found, labels = hashes(40), np.arange(40) % 2
        found[1::6] = found[0::6][: len(found[1::6])]
        mixed = np.random.default_rng(2).permutation(40)
        out = split_rows(found, labels, 0.3, 0)[1]
        assert sorted(mixed[split_rows(found[mixed], labels[mixed], 0.3, 0)[1]]) == out.tolist()

    def test_they_do_not_go_beyond_the_share(self):
        found = np.concatenate([hashes(1).repeat(20, 0), hashes(20, 1)])
        for seed in range(20):
            assert len(split_rows(found, None, 0.25, seed)[1]) == 10

    def test_nor_leave_a_class_without(self):
        found = hashes(2).repeat([20, 30], 0)
        for seed in range(5):
            assert split_rows(found, None, 0.1, seed)[1].tolist() == list(range(20))


class TestRefusals:
    @pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 1.5, 0, -3, 40, 41, float("nan")])
    def test_no_shares(self, share):
        with pytest.raises(UserError, match="a share between 0 and 1, or a number below .* 40"):
            split_rows(hashes(40), None, share, 0)

    def test_fewer_than_classes(self):
        with pytest.raises(UserError, match="held_out=3: fewer than the 4 classes.*held_out=4"):
            split_rows(hashes(40), np.arange(40) % 4, 3, 0)

    def test_nothing_to_part(self):
        with pytest.raises(UserError, match="no class has two different pictures"):
            split_rows(hashes(1).repeat(30, 0), None, 0.5, 0)


class TestPictures:
    def test_renamed_and_shuffled_files_are_split_alike(self, tmp_path):
        array = own.pixels(40)
        mixed = np.random.default_rng(0).permutation(40)
        places = own.names(40)
        own.folder(tmp_path / "x", array, places)
        own.folder(tmp_path / "y", array, [f"{places[i][:4]}{mixed[i]:04d}.bmp" for i in range(40)])
        sides = []
        for name in "xy":
            found = prepare_pictures(tmp_path / name, tmp_path / f"out{name}")
            out = split(found, 0.25, seed=7)[1]
            assert np.bincount(found.labels[out]).tolist() == [5, 5]
            sides.append({found.images[i].tobytes() for i in out})
        assert sides[0] == sides[1]

    def test_equal_ones_are_counted_named_and_kept_together(self, tmp_path):
        array = own.pixels()
        array[[7, 9, 20]] = array[2]
        source = own.folder(tmp_path / "x", array, suffix="webp", lossless=True)
        (source / "ant/7.webp").unlink()
        own.folder(source, array[7:8], ["ant/7.png"])  # Other bytes, the same pixels.
        found = prepare_pictures(source, tmp_path / "out")
        assert (
            "3 of 24 images are equal to another one, such as ant/7.png to ant/2.webp; equal ones "
            "are held out together or not at all"
        ) in found.cautions
        assert "1 of them are of another class than the one they are equal to" in found.cautions
        for seed in range(10):
            assert len(np.intersect1d(split(found, 0.3, seed)[1], [2, 7, 9, 20])) in (0, 4)
