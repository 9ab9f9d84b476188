"""What weakens a score is said beside it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from piflow_reports.scores.page import alerts
from piflow_reports.scores.read import read
from PIL import Image

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.errors import UserError
from piflow_bench.evaluation import score
from piflow_bench.evaluation.cautions import enlargement
from piflow_bench.evaluation.extractors.extractor import Extractor
from piflow_bench.evaluation.pictures.opening import open_images
from piflow_bench.evaluation.references import from_images
from piflow_bench.evaluation.references.statistics import save_statistics


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """An extractor of six features, that of CLIP by name where it is asked for."""

    def load(name, *rest):
        def prepare(images):
            return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255

        def pooled(x):
            return {"features": torch.nn.functional.adaptive_avg_pool2d(x, (2, 1)).flatten(1)}

        return Extractor(name, "0" * 64, "", ("features",), prepare, pooled, "cpu")

    for module in (score, from_images):
        monkeypatch.setattr(module, "get_extractor", load)


def pictures(n, seed=0, side=8):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def told(tmp_path, samples, reference=None, metrics=("vendi",), **given):
    found = piflow_bench.evaluate(
        samples, reference, metrics=metrics, cache=tmp_path / "c", intervals=False, **given
    )
    return found.warnings[0].splitlines()


def test_nothing_is_said_where_all_is_well(tmp_path):
    assert told(tmp_path, pictures(40), pictures(30, 1), ["fd", "recall"]) == []
    assert told(tmp_path, pictures(40)) == []


class TestCounts:
    def test_few_reference_images(self, tmp_path):
        (text,) = told(tmp_path, pictures(200), pictures(20, 1), ["recall"])
        assert text.startswith("20 reference images for 200 samples")
        assert told(tmp_path, pictures(100), pictures(20, 1), ["recall"]) == []

    def test_fewer_than_dimensions(self, tmp_path):
        (text,) = told(tmp_path, pictures(20), pictures(5, 1), ["fd"])
        assert text.startswith("5 reference images span less than the 6 dimensions")
        (text,) = told(tmp_path, pictures(6), pictures(30, 1), ["fd"])
        assert text.startswith("n = 6 samples span less than the 6 dimensions")


class TestCopies:
    def test_a_set_against_itself_in_any_order_and_file(self, tmp_path):
        rows = pictures(30)
        np.savez(tmp_path / "x.npz", rows[::-1])
        for reference in (rows, tmp_path / "x.npz", rows.transpose(0, 3, 1, 2)):
            (text,) = told(tmp_path, rows, reference, ["fd"])
            assert "scored against itself" in text

    def test_a_share_of_it(self, tmp_path):
        rows = pictures(30)
        mixed = np.concatenate([rows[:7], pictures(23, 1)])
        (text,) = told(tmp_path, mixed, rows, ["fd"])
        assert text == "7 of 30 samples equal an image of the reference pixel for pixel"
        (text,) = told(tmp_path, rows[:12], rows, ["fd"])
        assert text.startswith("12 of 12 samples")

    def test_samples_that_are_one_image(self, tmp_path):
        rows = pictures(30)
        rows[20:] = rows[0]
        assert told(tmp_path, rows) == ["10 of 30 samples equal another one pixel for pixel"]

    @pytest.mark.parametrize("repeated", [1, 7])
    def test_a_reference_that_repeats_itself(self, tmp_path, repeated):
        rows = pictures(30, 1)
        rows[-repeated:] = rows[:repeated]
        (text,) = told(tmp_path, pictures(30), rows, ["fd"])
        assert text == f"{repeated} of 30 reference images equal another one pixel for pixel"
        texts = told(tmp_path, rows, rows, ["fd"])
        assert len(texts) == 2 and "scored against itself" in texts[1]

    @pytest.mark.parametrize("metric", ["teacher_mse", "teacher_psnr", "teacher_cosine"])
    def test_the_teacher_given_as_the_samples(self, tmp_path, metric):
        rows = pictures(30)
        np.savez(tmp_path / "x.npz", rows)
        for teacher in (rows, tmp_path / "x.npz"):
            (text,) = told(tmp_path, rows, metrics=[metric], teacher=teacher)
            assert "are the teacher's images, pixel for pixel" in text
        other = pictures(30, 1)
        assert told(tmp_path, rows, metrics=[metric], teacher=other) == []
        other[[3, 20]] = rows[[3, 20]]
        texts = told(tmp_path, rows, metrics=[metric], teacher=other)
        assert texts == ["2 of 30 samples equal the teacher's image pixel for pixel"]
        shifted = rows.copy()
        shifted[:, 0, 0, 0] ^= 1
        assert told(tmp_path, rows, metrics=[metric], teacher=shifted) == []
        other[[3, 20]] = rows[[20, 3]]
        assert told(tmp_path, rows, metrics=[metric], teacher=other) == []

    def test_a_teacher_that_no_metric_looks_at(self, tmp_path):
        (text,) = told(tmp_path, pictures(30), teacher=pictures(30, 1))
        assert "teacher= is given, but none of its metrics" in text and "teacher_mse" in text


class TestStatistics:
    """A reference of statistics says less than images do, and what it cannot say is told."""

    REFERENCE = pictures(40, 1)

    def file(self, tmp_path, rows=REFERENCE, **changes):
        """What clean-fid or EDM would write of these images' features."""
        x = score.get_extractor("six")(rows)["features"].astype(float)
        arrays = {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} | changes
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        return path

    def of_ours(self, tmp_path, source=REFERENCE, **given):
        path = tmp_path / "ours.npz"
        found = from_images.reference_statistics(source, cache=tmp_path / "c", **given)
        save_statistics(path, found)
        return path

    @pytest.mark.parametrize(
        "changes, unseen, seen",
        [
            ({}, ["network, weights and resizing", "how many images", "which size", "among"], []),
            ({"n": 40}, ["resizing", "which size", "among"], ["how many"]),
            ({"extractor": "inception (; weights 000000000000)"}, ["how many"], ["resizing"]),
            ({"image_size": [8, 8]}, ["how many"], ["which size"]),
            ({"image_size": 8}, ["which size"], []),
        ],
    )
    def test_what_a_file_does_not_tell(self, tmp_path, changes, unseen, seen):
        path = self.file(tmp_path, **changes)
        (text,) = told(tmp_path, pictures(30), path, ["fd"])
        assert text.startswith(f"reference={path}: statistics, which do not tell")
        assert all(words in text for words in unseen)
        assert not any(words in text for words in seen)

    def test_files_of_ours_leave_copies_alone_unseen(self, tmp_path):
        (text,) = told(tmp_path, pictures(30), self.of_ours(tmp_path), ["fd"])
        assert "do not tell whether samples are among these: nothing here" in text

    def test_few_images(self, tmp_path):
        texts = told(tmp_path, pictures(30), self.file(tmp_path, n=5), ["fd"])
        assert "5 reference images span less than the 6 dimensions" in texts[1]
        texts = told(tmp_path, pictures(201), self.file(tmp_path, n=40), ["fd"])
        assert texts[1].startswith("40 reference images for 201 samples")
        assert len(told(tmp_path, pictures(200), self.file(tmp_path, n=40), ["fd"])) == 1

    def test_few_images_beside_statistics_of_many(self, tmp_path):
        """ADM's files: precision and recall look at fewer images than fd's statistics are of."""
        path = self.file(tmp_path, arr_0=self.REFERENCE, n=50_000)
        texts = told(tmp_path, pictures(201), path, ["fd", "recall"])
        assert texts[1].startswith("40 reference images for 201 samples") and len(texts) == 2

    def test_the_samples_own(self, tmp_path):
        rows = pictures(30)
        for path in (self.file(tmp_path, rows), self.of_ours(tmp_path, rows)):
            texts = told(tmp_path, rows, path, ["fd"])
            assert "scored against itself" in texts[-1], texts
            assert not any("itself" in text for text in told(tmp_path, pictures(30, 2), path, "fd"))

    def test_another_size_or_precision(self, tmp_path):
        large = self.of_ours(tmp_path, pictures(40, 1, side=16))
        (_, text) = told(tmp_path, pictures(30), large, ["fd"])
        assert "8x8 pixels, the reference 16x16" in text
        half = self.file(tmp_path, precision="bfloat16")
        (_, text) = told(tmp_path, pictures(30), half, ["fd"])
        assert "statistics of features in bfloat16, the samples' are in float32" in text

    def test_what_weakened_their_images_stays_with_them(self, tmp_path):
        rows = self.REFERENCE.copy()
        rows[7] = rows[0]
        (tmp_path / "real").mkdir()
        for i, row in enumerate(rows):
            Image.fromarray(row).save(tmp_path / "real" / f"{i}.png")
        (tmp_path / "real" / "note.txt").write_text("")
        path = self.of_ours(tmp_path, tmp_path / "real")
        texts = told(tmp_path, pictures(30), path, ["fd"])
        assert any("real: 1 .txt file (note.txt) is left out" in text for text in texts)
        assert f"reference={path}: 1 of 40 images equal another one pixel for pixel" in texts

    def test_their_images_serve_other_metrics(self, tmp_path):
        """ADM's files hold both: what images show is seen, what statistics are of is not."""
        path = self.file(tmp_path, arr_0=self.REFERENCE)
        (text,) = told(tmp_path, pictures(30), path, ["fd", "recall"])
        assert text.endswith("weights and resizing they are and of how many images: nothing here "
                             "checks that")  # fmt: skip

    @pytest.mark.parametrize(
        "metrics, words",
        [
            (["fd", "recall"], "'recall' needs reference images or features; statistics give only"),
            (["sfd"], r"'sfd' needs statistics of spatial features \(mu_s, sigma_s\)"),
            (["fd", "flow_map_error"], "'flow_map_error' is of runs"),
        ],
    )
    def test_what_they_cannot_serve_is_refused_before_work(
        self, tmp_path, monkeypatch, metrics, words
    ):
        path, loaded = self.file(tmp_path), score.get_extractor("inception")
        loaded = replace(loaded, outputs=("features", "spatial"))
        monkeypatch.setattr(score, "get_extractor", lambda *recipe: loaded)
        with pytest.raises(UserError, match=words):
            told(tmp_path, pictures(30), path, metrics)
        assert not (tmp_path / "c").exists()

    def test_classes_are_asked_for_before_work(self, tmp_path):
        path = self.file(tmp_path)
        given = dict(per_class=["fd"], labels=np.arange(30) % 2)
        with pytest.raises(UserError, match="per_class: fd needs a reference whose images have"):
            told(tmp_path, pictures(30), path, ["fd"], **given)
        assert not (tmp_path / "c").exists()


class TestSizes:
    def test_they_differ(self, tmp_path):
        texts = told(tmp_path, pictures(30), pictures(30, 1, side=16), ["fd"])
        assert len(texts) == 1 and "8x8 pixels, the reference 16x16" in texts[0]

    @pytest.mark.parametrize("factor", [2, 3, 4])
    def test_enlarged_samples(self, tmp_path, factor):
        large = pictures(30).repeat(factor, 1).repeat(factor, 2)
        for reference in (None, pictures(30, 1, side=8 * factor)):
            (text,) = told(tmp_path, large, reference)
            assert f"{factor}x{factor} times: they were enlarged" in text
        assert told(tmp_path, large, pictures(30, 1).repeat(factor, 1).repeat(factor, 2)) == []

    def test_one_colour_is_of_any_size(self):
        flat = np.full((5, 16, 16, 3), 7, np.uint8)
        assert enlargement(open_images(flat)) == 1
        flat[3, :8] = 90
        assert enlargement(open_images(flat)) == 4, "8 is no more than half a side"


def test_authpct_asks_for_the_training_set(tmp_path):
    (text,) = told(tmp_path, pictures(30), pictures(30, 1), ["authpct"])
    assert "training set" in text


def test_terminal_and_page_tell_them(tmp_path, capsys):
    for name, rows in (("a", pictures(30)), ("b", pictures(30, side=16))):
        np.savez(tmp_path / f"{name}.npz", rows)
    files = {"samples": "a.npz", "reference": "b.npz", "out": "o", "store": "s"}
    paths = [f"{key}={tmp_path / name}" for key, name in files.items()]
    assert main(["evaluate", *paths, "metrics=[fd]", "n=20"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: the samples have 8x8 pixels" in printed
    assert "samples: 20 of 30, a fixed draw" in printed
    (alert,) = alerts(read([tmp_path / "o"]))
    page = (tmp_path / "o" / "report.html").read_text()
    assert alert["text"] in page and "20 of 30, a fixed draw" in page
    older = pd.read_parquet(tmp_path / "o" / "scores.parquet").drop(columns=["taken", "warnings"])
    older.to_parquet(tmp_path / "o" / "scores.parquet")
    assert read([tmp_path / "o"])["taken"].tolist() == [""]


def test_terminal_and_page_tell_those_of_statistics(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", pictures(30))
    np.savez(tmp_path / "b.npz", np.concatenate([pictures(5, 1)] * 2))
    given = [f"store={tmp_path / 's'}", "extractor=inception"]
    written = f"statistics={tmp_path / 'stats.npz'}"
    assert main(["evaluate", f"samples={tmp_path / 'b.npz'}", written, *given]) == 0
    printed = capsys.readouterr().out
    assert "warning: 5 of 10 images equal another one pixel for pixel" in printed
    paths = [f"samples={tmp_path / 'a.npz'}", f"reference={tmp_path / 'stats.npz'}"]
    out = f"out={tmp_path / 'o'}"
    assert main(["evaluate", *paths, "metrics=[fd]", out, *given]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "o" / "report.html").read_text()
    for words in ("whether samples are among these", "5 of 10 images equal another one pixel"):
        assert words in printed and words in page


def test_cmmd_is_of_clip(tmp_path):
    given = dict(metrics="cmmd", cache=tmp_path / "c")
    with pytest.raises(UserError, match="'cmmd' is of extractor=clip, not of inception.*mmd_rbf_"):
        piflow_bench.evaluate(pictures(30), pictures(30, 1), **given)
    theirs = piflow_bench.evaluate(pictures(30), pictures(30, 1), extractor="clip", **given)
    given["metrics"] = "mmd_rbf_unit"
    ours = piflow_bench.evaluate(pictures(30), pictures(30, 1), **given)
    assert ours.value[0] == theirs.value[0] > 0


@pytest.mark.parametrize("key", ["samples", "n", "metrics", "kid_seed"])
def test_a_key_given_twice(tmp_path, monkeypatch, capsys, key):
    monkeypatch.chdir(tmp_path)
    settings = ["samples=a", "n=3", "metrics=[fd]", "kid_seed=1"]
    again = next(each for each in settings if each.startswith(key))
    assert main(["evaluate", *settings, again]) == 2
    assert f"{key}=: given twice" in capsys.readouterr().err


def test_places_and_devices_are_tried_before_work(tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    for given, words in (
        (dict(cache=tmp_path / "file" / "deeper"), "cache=.*cannot be written"),
        (dict(device="mps"), "device=mps: must be cpu, cuda"),
        (dict(n=0), "n=0: must be at least 1"),
    ):
        given = dict(metrics="vendi", extractor="digits", cache=tmp_path / "c") | given
        with pytest.raises(UserError, match=words):
            piflow_bench.evaluate(pictures(5), **given)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_few_samples_name_the_metric_and_the_way_out(tmp_path):
    given = dict(metrics="recall", cache=tmp_path / "c")
    with pytest.raises(UserError, match=r"'recall'.*k=3.*\(n=5, 30 reference.*intervals=false"):
        piflow_bench.evaluate(pictures(5), pictures(30, 1), **given)
    assert piflow_bench.evaluate(pictures(5), pictures(30, 1), intervals=False, **given).n[0] == 5


@pytest.mark.parametrize(
    "metric, n, least",
    [
        ("fd", 2, 2), ("fd", 3, 2), ("kid_exact", 3, 2), ("energy_distance", 2, 2),
        ("fd_infinity", 5, 3), ("fd_infinity", 2, 3),
    ],
)  # fmt: skip
def test_the_least_n_is_named(tmp_path, metric, n, least):
    given = dict(metrics=metric, cache=tmp_path / "c")
    words = f"'{metric}' needs at least {least} samples, not . .n={n}"
    with pytest.raises(UserError, match=words) as refused:
        piflow_bench.evaluate(pictures(n), pictures(30, 1), **given)
    assert ("intervals=false" in str(refused.value)) == (n >= least)
    if n >= least:
        given["intervals"] = False
        assert piflow_bench.evaluate(pictures(n), pictures(30, 1), **given).value[0] > 0
    else:
        with pytest.raises(UserError, match=words):
            piflow_bench.evaluate(pictures(n), pictures(30, 1), intervals=False, **given)
