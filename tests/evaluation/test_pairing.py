"""What belongs to which sample: counts, orders and names."""

import json

import numpy as np
import pytest
from PIL import Image

import piflow_bench
from piflow_bench.errors import UserError
from piflow_bench.evaluation.pairing import by_name
from piflow_bench.evaluation.pictures.files import natural, two_orders

LABELS = np.arange(12) % 3


def blank(i):
    """Pictures of one class are equal, so that a class has a Vendi score of 1."""
    return np.full((8, 8), 20 + 70 * (i % 3), np.uint8) + np.arange(8, dtype=np.uint8) * (i % 3)


def folder(path, names):
    path.mkdir()
    for i, name in enumerate(names):
        (path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(blank(i)).save(path / name)
    return path


def score(samples, tmp_path, **given):
    given = dict(extractor="digits", metrics="vendi_within", intervals=False) | given
    return piflow_bench.evaluate(samples, cache=tmp_path / "cache", **given).value[0]


UNPADDED = [f"{i}.png" for i in range(12)]
PADDED = [f"{i:03d}.png" for i in range(12)]
ARRAY = np.stack([blank(i) for i in range(12)])


def test_the_order_people_count_in():
    names = [
        "img10.png",
        "img2.png",
        "img1.png",
        "b 2/1.png",
        "b 10/1.png",
        "a.png",
        "x1y10",
        "x1y9",
    ]
    expected = [
        "a.png",
        "b 2/1.png",
        "b 10/1.png",
        "img1.png",
        "img2.png",
        "img10.png",
        "x1y9",
        "x1y10",
    ]
    assert sorted(names, key=natural) == expected
    assert len({natural(name) for name in ("1", "01", "001")}) == 3
    assert two_orders(["1", "02", "3"]) is not None
    assert two_orders(["01", "02", "10"]) is None


class TestByPlace:
    @pytest.mark.parametrize("names", [PADDED, [f"img_{i:02d}.bmp" for i in range(12)], None])
    def test_one_order_is_taken(self, tmp_path, names):
        samples = ARRAY if names is None else folder(tmp_path / "x", names)
        assert score(samples, tmp_path, labels=LABELS) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(
        "names",
        [
            UNPADDED,
            [f"sample{i}.png" for i in range(12)],
            [f"{i // 11}/{i}.png" for i in range(12)],
            [f"class{i}/0.png" for i in range(12)],
        ],
    )
    @pytest.mark.parametrize(
        ("what", "value"),
        [("labels", LABELS), ("prompts", list("abcabcabcabc")), ("teacher", ARRAY)],
    )
    def test_two_orders_are_refused(self, tmp_path, names, what, value):
        samples = folder(tmp_path / "x", names)
        with pytest.raises(UserError, match=rf"^{what}: paired by place.*two orders.*pad the"):
            score(samples, tmp_path, **{what: value})
        assert score(samples, tmp_path, metrics="vendi") > 1, "nothing is paired"

    def test_files_beside_an_array_too(self, tmp_path):
        with pytest.raises(UserError, match="^teacher: paired by place"):
            score(ARRAY, tmp_path, teacher=folder(tmp_path / "x", UNPADDED), metrics="teacher_mse")


class TestByName:
    @pytest.mark.parametrize("names", [UNPADDED, PADDED, [f"{i % 3}/{i}.png" for i in range(12)]])
    def test_labels_and_prompts(self, tmp_path, names):
        samples = folder(tmp_path / "x", names)
        named = {name: f"kind {i % 3}" for i, name in enumerate(names)}
        bare = dict(reversed([(name.removesuffix(".png"), i % 3) for i, name in enumerate(names)]))
        (tmp_path / "y.json").write_text(json.dumps(named))
        for what, value in (
            ("labels", bare), ("labels", tmp_path / "y.json"), ("prompts", tmp_path / "y.json"),
            ("prompts", named),
        ):  # fmt: skip
            assert score(samples, tmp_path, **{what: value}) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("suffix", [".png", ".bmp"])
    def test_the_teachers_folder(self, tmp_path, suffix):
        samples = folder(tmp_path / "x", UNPADDED)
        teacher = folder(tmp_path / "y", [f"{i}{suffix}" for i in range(12)])
        given = dict(teacher=teacher, metrics="teacher_mse")
        assert score(samples, tmp_path, **given) == 0
        assert score(samples, tmp_path, n=7, **given) == 0
        (teacher / f"11{suffix}").rename(teacher / f"twelve{suffix}")
        with pytest.raises(UserError, match="^teacher: paired by name.*the sample 11.png"):
            score(samples, tmp_path, **given)

    def test_what_is_not_one_to_one(self, tmp_path):
        assert by_name(["a.png", "b.png"], ["b.jpg", "a.png"], "teacher").tolist() == [1, 0]
        assert by_name(["a.png", "a.jpg"], ["a.jpg", "a.png"], "teacher").tolist() == [1, 0]
        assert by_name(["v1.5", "v1.7"], ["v1.7", "v1.5"], "labels").tolist() == [1, 0]
        with pytest.raises(UserError, match="a is there twice"):
            by_name(["a.png", "b.png"], ["a.jpg", "a.bmp", "b.png"], "teacher")
        with pytest.raises(UserError, match="the samples are no folder"):
            score(ARRAY, tmp_path, labels={name: 0 for name in UNPADDED})


class TestCounts:
    MORE = {
        "labels": np.arange(15) % 3,
        "prompts": list("abc" * 5),
        "teacher": np.concatenate([ARRAY, ARRAY[:3]]),
    }

    @pytest.mark.parametrize("what", MORE)
    @pytest.mark.parametrize("count", [11, 15])
    def test_unequal_ones_are_refused_unless_n_is_given(self, tmp_path, what, count):
        given = {what: self.MORE[what][:count]}
        metric = "teacher_mse" if what == "teacher" else "vendi_within"
        with pytest.raises(UserError, match=f"^{what}: {count} .* for 12 samples; one a sample"):
            score(ARRAY, tmp_path, metrics=metric, **given)
        right = 0 if what == "teacher" else 1
        for n in (9, 11):
            found = score(ARRAY, tmp_path, metrics=metric, n=n, **given)
            assert found == pytest.approx(right, abs=1e-6)
        if count == 11:
            with pytest.raises(UserError, match="^n=12: only 11 samples have all"):
                score(ARRAY, tmp_path, metrics=metric, n=12, **given)

    @pytest.mark.parametrize("what", MORE)
    def test_of_what_the_partners_let_be_scored_it_says_so(self, tmp_path, what):
        """Samples without partners are not drawn from; where all others are taken, none is."""
        metric = "teacher_mse" if what == "teacher" else "vendi_within"

        def taken(count, n):
            given = {what: self.MORE[what][:count]}
            return piflow_bench.evaluate(
                ARRAY, extractor="digits", metrics=metric, intervals=False, n=n,
                cache=tmp_path, **given,
            ).taken[0]  # fmt: skip

        how = "a fixed draw" + (" that keeps the shares of classes" if what != "teacher" else "")
        assert taken(11, 11) == "the first 11 of 12"
        assert taken(11, 9) == f"9 of the first 11 of 12, {how}"
        assert taken(15, 9) == f"9 of 12, {how}"
        assert taken(15, 12) == ""

    def test_the_labels_of_a_file(self, tmp_path):
        np.savez(tmp_path / "x.npz", ARRAY, np.arange(15) % 3)
        with pytest.raises(UserError, match="arr_1 has 15 labels for 12 images"):
            score(tmp_path / "x.npz", tmp_path)
        np.savez(tmp_path / "y.npz", ARRAY, LABELS[:, None])
        assert score(tmp_path / "y.npz", tmp_path) == pytest.approx(1, abs=1e-6)
        np.savez(tmp_path / "z.npz", ARRAY, np.eye(3)[LABELS])
        assert score(tmp_path / "z.npz", tmp_path) == pytest.approx(1, abs=1e-6)
        np.savez(tmp_path / "z.npz", ARRAY, 0.9 * np.eye(3)[LABELS])
        with pytest.raises(UserError, match="needs labels"):
            score(tmp_path / "z.npz", tmp_path)
