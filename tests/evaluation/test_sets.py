"""Several sets at once: which they are, how they are called, and how far they are apart."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.errors import UserError
from piflow_bench.evaluation import extraction
from piflow_bench.evaluation.sets import several, written_list
from piflow_bench.evaluation.tables import COLUMNS, OF_SETS
from piflow_bench.evaluation.uncertainty import jackknife_error


def digits(seed, n=120, shift=0.0):
    """Pictures that share their noise: one seed and another shift are paired."""
    random = np.random.default_rng(seed)
    return (90 + 40 * random.standard_normal((n, 8, 8, 3)) + shift).clip(0, 255).astype(np.uint8)


REAL = digits(9)
A, B, C = digits(0, shift=25), digits(0, shift=18), digits(3, shift=5)
SETTINGS = dict(extractor="digits", metrics=["fd", "vendi"])


def score(samples, tmp_path, reference=REAL, **more):
    return piflow_bench.evaluate(samples, reference, **(SETTINGS | dict(cache=tmp_path) | more))


def folder(path, rows, suffix=".png"):
    path.mkdir(parents=True)
    for i, row in enumerate(rows):
        Image.fromarray(row).save(path / f"{i:03d}{suffix}")
    return path


class TestWhich:
    def test_a_list_of_images_is_one_set(self, tmp_path):
        pictures = [Image.fromarray(row) for row in A]
        for one in (A, list(A), [(row, 3) for row in A], pictures, torch.from_numpy(A), "x", []):
            assert several(one) is None

    @pytest.mark.parametrize(
        "many",
        [["a", "b"], ("a", "b"), [A, B], [torch.from_numpy(A), B], [A, "b"], [list(A), list(B)],
         [iter([A]), iter([B])], {"x": A, "y": "b"}, ["only one"]],
        ids=["paths", "a tuple", "arrays", "a tensor", "an array and a path", "lists of images",
             "iterators", "by name", "one path"],
    )  # fmt: skip
    def test_a_list_of_sets_is_several(self, many):
        assert len(several(many).sources) == len(many)

    def test_names(self, tmp_path):
        def named(*paths):
            return list(several(list(paths)).sources)

        (tmp_path / "v1.5").mkdir()
        assert named("x/a.npz", "y/b.tar.gz", tmp_path / "v1.5") == ["a", "b", "v1.5"]
        assert named("exp1/samples", "exp2/samples") == ["exp1/samples", "exp2/samples"]
        assert named("a/x.npz", "a/x.zip", "b/x.npz") == ["a/x.npz", "a/x.zip", "b/x.npz"]
        assert named("a.npz", A, B) == ["a", "set 2", "set 3"]
        assert list(several({3: A, "b": B}).sources) == ["3", "b"]
        with pytest.raises(UserError, match="x.npz is given twice"):
            named("x.npz", "./x.npz")

    def test_patterns(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("step-10", "step-9", ".hidden", "other"):
            (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / "step-11.npz").write_bytes(b"")
        (tmp_path / "out" / "step-log.txt").write_text("")
        found = several("out/step-*")
        assert list(found.sources) == ["step-9", "step-10", "step-11"]
        assert found.warnings == ["samples=out/step-*: 1 other file left out, such as "
                                  "out/step-log.txt"]  # fmt: skip
        assert list(several(["out/o*", "out/step-?"]).sources) == ["other", "step-9"]
        with pytest.raises(UserError, match="samples=out/x.: matches no folder"):
            several("out/x*")
        (tmp_path / "x[1]").mkdir()
        assert several("x[1]") is None, "a path that is there is itself"

    def test_lists_as_they_are_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert written_list('[a, b/*,"c,d"]') == ["a", "b/*", "c,d"]
        assert written_list("a,b") is None
        (tmp_path / "[a]").mkdir()
        assert written_list("[a]") is None


class TestTable:
    def test_each_row_is_that_of_its_set_alone(self, tmp_path):
        found = score({"a": A, "b": B, "c": C}, tmp_path, per_class=[], labels=np.arange(120) % 3)
        assert list(found.columns) == ["set", *COLUMNS, *OF_SETS]
        for name, rows in (("a", A), ("b", B), ("c", C)):
            alone = score(rows, tmp_path, labels=np.arange(120) % 3)
            assert list(alone.columns) == COLUMNS
            mine = found[found["set"] == name].reset_index(drop=True)
            pd.testing.assert_frame_equal(mine[COLUMNS], alone)

    def test_the_best_by_the_first_metric_comes_first(self, tmp_path):
        found = score({"a": A, "b": B, "c": C}, tmp_path)
        assert list(dict.fromkeys(found["set"])) == ["c", "b", "a"]
        found = score({"a": A, "b": B, "c": C}, tmp_path, metrics=["vendi", "fd"])
        values = found[found.metric == "vendi"].value
        assert list(values) == sorted(values, reverse=True)

    def test_the_reference_is_extracted_once(self, tmp_path, monkeypatch):
        seen = []
        one = extraction._outputs
        monkeypatch.setattr(
            extraction,
            "_outputs",
            lambda images, *rest: seen.append(len(rest[1])) or one(images, *rest),
        )
        score([A, B, C], tmp_path, reference=digits(9, 77))
        assert sorted(seen) == [77, 120, 120, 120]

    def test_several_n(self, tmp_path):
        found = score(A, tmp_path, n=[100, 40, 100])
        assert list(found.columns) == COLUMNS and list(found.n) == [40, 40, 100, 100]
        for n in (40, 100):
            alone = score(A, tmp_path / "new", n=n)
            mine = found[found.n == n].reset_index(drop=True)
            numbers = ["value", "ci_low", "ci_high"]
            assert np.allclose(mine[numbers], alone[numbers], rtol=1e-5)
            assert (mine.protocol_hash == alone.protocol_hash).all() and (
                mine.taken == alone.taken
            ).all()
        both = score([A, C], tmp_path, n=[40, 100])
        assert list(both["set"] + both["n"].astype(str)) == [
            *["set 240"] * 2, *["set 140"] * 2, *["set 2100"] * 2, *["set 1100"] * 2
        ]  # fmt: skip

    @pytest.mark.parametrize("n", [np.int64(40), [np.int64(40)], np.array([40, 40]), (40,)])
    def test_numbers_of_any_kind(self, tmp_path, n):
        assert score(A, tmp_path, n=n, metrics="vendi").n.tolist() == [40]

    @pytest.mark.parametrize("n", [0, -3, 2.5, "40", True, [], [40, 0], [40, "50"]])
    def test_what_is_no_number_of_samples(self, tmp_path, n):
        with pytest.raises(UserError, match="^n=.*(at least|whole number)"):
            score(A, tmp_path, n=n)

    def test_sets_of_other_numbers_are_refused_before_any_work(self, tmp_path):
        with pytest.raises(UserError, match="b has 100 images, a 120; .* set n=100"):
            score({"a": A, "b": B[:100]}, tmp_path / "c")
        assert not list(tmp_path.rglob("*.npz"))
        assert len(score({"a": A, "b": B[:100]}, tmp_path, n=100)) == 4

    def test_sets_of_other_rules_are_refused_before_any_work(self, tmp_path):
        np.savez(tmp_path / "a.npz", A, np.arange(120) % 3)
        np.savez(tmp_path / "b.npz", B, np.arange(120) % 4)
        with pytest.raises(UserError, match="(a and b).*classes: '., of .0 .* and '., of .0"):
            score([tmp_path / "a.npz", tmp_path / "b.npz"], tmp_path / "c", metrics="vendi_within")
        assert not (tmp_path / "c").exists()

    def test_a_mistake_names_the_set(self, tmp_path):
        with pytest.raises(UserError, match="y: samples: floats must lie"):
            score({"x": A, "y": B / 2.0}, tmp_path)
        with pytest.raises(UserError, match="an empty dictionary"):
            score({}, tmp_path)


class TestDifferences:
    def test_paired_samples_share_their_luck(self, tmp_path):
        found = score({"a": A, "b": B}, tmp_path)
        paired = found[(found["set"] == "b") & (found.metric == "fd")].iloc[0]
        assert paired.against == "a" and paired.paired == "by place"
        values = found[found.metric == "fd"].set_index("set")
        assert paired.difference == pytest.approx(values.value["b"] - values.value["a"])
        assert paired.difference_low < paired.difference < paired.difference_high < 0
        own = values.ci_high - values.ci_low
        assert paired.difference_high - paired.difference_low < 0.5 * np.hypot(*own)
        first = found[found["set"] == "a"]
        assert first.difference.isna().all() and first.against.isna().all()

    def test_partners_of_one_name(self, tmp_path):
        a, b = folder(tmp_path / "a", A), folder(tmp_path / "b" / "deep", B, ".bmp")
        c = folder(tmp_path / "c", C)
        (c / "000.png").rename(c / "0000.png")
        shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path, "a")
        found = score([a, b, c, tmp_path / "d.zip", A], tmp_path / "cache")
        how = found.drop_duplicates("set").set_index("set").paired
        assert how.drop("a").to_dict() == {
            "deep": "by name", "c": "no", "d": "by name", "set 5": "by place"
        }  # fmt: skip
        same = found[found["set"].isin(["d", "set 5"])]
        assert (same.difference == 0).all() and (same.difference_low == 0).all()

    def test_unpaired_errors_add(self, tmp_path):
        a, c = folder(tmp_path / "a", A), folder(tmp_path / "c", C)
        (c / "000.png").rename(c / "zero.png")
        found = score([a, c], tmp_path / "cache").query("metric == 'fd'").set_index("set")
        halves = (found.ci_high - found.ci_low) / 2
        half = (found.difference_high["c"] - found.difference_low["c"]) / 2
        # The quantile is that of more degrees of freedom.
        assert 0.9 * np.hypot(*halves) < half < np.hypot(*halves)

    def test_other_places_and_designs_are_no_partners(self, tmp_path):
        labels = [np.arange(120) % 3, np.arange(120) // 40]
        for name, rows, classes in (("a", A, labels[0]), ("b", B, labels[1])):
            np.savez(tmp_path / f"{name}.npz", rows, classes)
        found = score([tmp_path / "a.npz", tmp_path / "b.npz"], tmp_path / "c")
        assert set(found.paired.dropna()) == {"no"}
        more = np.concatenate([B, C])
        assert set(score([A, more], tmp_path, n=100).paired.dropna()) == {"no"}

    def test_without_intervals_there_are_values(self, tmp_path):
        found = score([A, B], tmp_path, intervals=False).query("`set` == 'set 2'")
        assert found.difference.notna().all() and found.difference_low.isna().all()

    def test_intervals_hold_the_truth(self):
        """Of paired and of independent draws, by the same rule."""
        from piflow_bench.evaluation.differences import difference
        from piflow_bench.evaluation.features import evaluate_with_replicates

        random = np.random.default_rng(0)
        inside = {True: 0, False: 0}
        for paired in inside:
            for _ in range(200):
                noise = random.standard_normal((200, 1))
                other = noise if paired else random.standard_normal((200, 1))
                sides = [1 + noise + 0.1 * random.standard_normal((200, 1)), 0.5 + other]
                a, b = (
                    evaluate_with_replicates(x, np.zeros((9, 1)), ["sliced_wasserstein"])[0]
                    for x in sides
                )
                found = difference(a, b, paired, 0.95)
                assert found.high > found.low and jackknife_error(a.replicates) > 0
                inside[paired] += found.low <= np.sqrt(2.01) - np.sqrt(1.25) <= found.high
        assert all(180 <= count <= 200 for count in inside.values()), inside


class TestCommand:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        for name, rows in (("step-9", A), ("step-10", B), ("step-100", C)):
            folder(tmp_path / "out" / name, rows)
        folder(tmp_path / "real", REAL)

    ARGUMENTS = ("evaluate", "reference=real", "extractor=digits", "metrics=[fd,precision,vendi]")

    @pytest.mark.parametrize(
        "samples", ["out/step-*", "[out/*]", "[out/step-9,out/step-10,out/step-100]"]
    )
    def test_one_table_and_one_page(self, tmp_path, capsys, samples):
        assert main([*self.ARGUMENTS, f"samples={samples}"]) == 0
        printed = capsys.readouterr().out
        (folder,) = (tmp_path / "runs" / "scores").iterdir()
        assert folder.name == "step-9-and-2-more-default"
        lines = printed.splitlines()[:-1]  # The last one is the page's path.
        assert max(map(len, lines)) <= 80
        assert all(line.count("[") == line.count("]") for line in lines)
        assert "minus step-9" in printed and "n = 120 / 120" in printed
        places = [printed.index(name + " ") for name in ("step-100", "step-10", "step-9")]
        assert "fd ↓" in printed and places[0] < places[1]
        table = pd.read_parquet(folder / "scores.parquet")
        assert list(dict.fromkeys(table["set"])) == ["step-100", "step-10", "step-9"]
        apart = pd.read_parquet(folder / "differences.parquet")
        assert len(apart) == 3 * 3 and set(apart.paired) == {"by name"}
        rows = json.loads((folder / "differences.json").read_text())
        assert rows[0]["difference"] == apart.difference[0]
        page = (folder / "report.html").read_text()
        assert all(name in page for name in ("step-9", "step-10", "step-100"))
        assert main(["report", str(folder)]) == 0
        assert main([*self.ARGUMENTS, f"samples={samples}"]) == 0, "the same again is no other"

    def test_other_sets_do_not_replace_them(self, capsys):
        assert main([*self.ARGUMENTS, "samples=[out/step-9,out/step-10]"]) == 0
        assert main([*self.ARGUMENTS, "samples=[out/step-9,out/step-100]"]) == 2
        message = capsys.readouterr().err
        assert "step-9-and-1-more-default: holds scores with samples=[" in message

    def test_several_n_have_a_page_each(self, tmp_path, capsys):
        assert main([*self.ARGUMENTS, "samples=out/step-*", "n=[40,100]", "out=o"]) == 0
        printed = capsys.readouterr().out
        assert "n = 40 / 120" in printed and "n = 100 / 120" in printed
        assert "samples: 40 of 120" in printed
        assert sorted(p.name for p in (tmp_path / "o").glob("*.html")) == [
            "report-n40.html", "report.html"
        ]  # fmt: skip
        assert main([*self.ARGUMENTS, "samples=out/step-9", "n=[40,100]", "out=one"]) == 0
        assert main(["report", "o", "one", "out=both.html"]) == 0
        assert (tmp_path / "both-n40.html").is_file()
        text = (tmp_path / "both.html").read_text()
        assert "o/step-100" in text and "one" in text

    def test_long_names_fit(self, capsys):
        for end in ("a", "b"):
            (shutil.copytree("out/step-9", "a rather long name of an experiment, run " + end))
        assert main([*self.ARGUMENTS, "samples=a rather*"]) == 0
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines()[:-1])) <= 80
        assert ", run a " in printed and ", run b " in printed

    @pytest.mark.parametrize(
        "settings, words",
        [
            (["samples=out/none*"], "samples=out/none*: matches no folder"),
            (["samples=[out/step-9,none]"], "samples=none: no such file"),
            (["samples=[out/step-9,out/step-9]"], "step-9 is given twice"),
            (["samples=out/step-*", "statistics=s.npz"], "statistics=FILE: are of one set"),
            (["samples=out/step-9", "statistics=s.npz", "n=[40,50]"], "are of one set and one n"),
            (["samples=out/step-9", "n=[40,0]"], "n=0: must be at least 1"),
            (["samples=out/step-9", "samples=out/step-10"], "several sets are samples=[a,b]"),
            (["samples=out/step-*", "n=500"], "120 images, but 500 are asked for"),
        ],
    )
    def test_mistakes_get_one_line(self, tmp_path, capsys, settings, words):
        before = sorted(tmp_path.rglob("*"))
        assert main([*self.ARGUMENTS, *settings]) == 2
        message = capsys.readouterr().err
        assert words in message and message.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_intervals_end_at_the_metrics_range_and_classes_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name, rows in (("p", A), ("q", B)):
        np.savez(f"{name}.npz", rows, np.arange(120) % 3)
    command = ["evaluate", "reference=p.npz", "extractor=digits", "metrics=[recall,fd]"]
    assert main([*command, "samples=[p.npz,q.npz]", "per_class=[vendi]"]) == 0
    printed = capsys.readouterr().out
    ends = [text.partition("]")[0].split(", ") for text in printed.split("[")[1:]]
    recall, fd = ends[0], next(line for line in printed.splitlines() if line.startswith("  p  "))
    assert float(recall[1]) == 1 and "1.00" in fd
    below = printed[printed.index("fd ↓") :].splitlines()[1]
    assert "[0.0, " in below and "−" not in below
    assert "vendi ↑, class 0" in printed
    assert main([*command, "samples=[p.npz]", "out=one"]) == 0
    printed = capsys.readouterr().out
    assert "minus" not in printed and "120 / 120" in printed


def test_digits_follow_the_interval_and_nothing_wraps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", np.concatenate([REAL, C])[:150], np.arange(150) % 3)
    np.savez("r.npz", digits(11, 200), np.arange(200) % 3)
    for width in ("80", "120"):
        monkeypatch.setenv("COLUMNS", width)
        sides = ["samples=x.npz", "reference=r.npz", "extractor=digits", "per_class=[vendi]"]
        metrics = "metrics=[fd,kid_exact,energy_distance,pairwise_distance]"
        assert main(["evaluate", *sides, metrics]) == 0
        printed = capsys.readouterr().out
        lines = printed.splitlines()
        assert max(map(len, lines)) <= int(width)
        assert all(line.count("[") == line.count("]") for line in lines)
        assert "e-0" not in printed
        kid = next(line for line in lines if line.startswith("kid_exact"))
        numbers = kid.replace("[", "").replace("]", "").replace(",", "").split()
        ends = {len(each.partition(".")[2]) for each in numbers if "." in each}
        assert len(ends) == 1, kid
