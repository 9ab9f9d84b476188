"""The page of scores: who is best and by how much, and the pictures of what was scored."""

import json

import numpy as np
import pandas as pd
import pytest
from piflow_reports.pictures import scores as scores_pictures
from piflow_reports.scores import differences as scores_differences
from piflow_reports.scores import page as scores
from piflow_reports.sections.rankings import Cell, Column
from PIL import Image
from sklearn.datasets import load_digits

from piflow_bench.cli import main
from piflow_bench.errors import UserError
from tests.reports.axe import serious
from tests.reports.looking import ready, unfold, usual, window


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three sets of partners and a reference, as folders of images."""
    root = tmp_path_factory.mktemp("sets")
    digits = (load_digits().images * 255 / 16).astype(np.uint8)
    noise = np.random.default_rng(0).integers(-60, 60, (120, 8, 8))
    sets = {
        "real": digits[900:1200],
        "good": digits[:120],
        "noisy": (digits[:120] + noise).clip(0, 255).astype(np.uint8),
        "black <i>": digits[:120] // 4,
    }
    for name, rows in sets.items():
        (root / name).mkdir()
        for i, row in enumerate(rows):
            Image.fromarray(row).save(root / name / f"{i}.png")
    return root


def scored(root, out, *names, **settings):
    """Scores of some sets, with their page."""
    samples = f"[{','.join(str(root / name) for name in names)}]" if names[1:] else root / names[0]
    given = {
        "samples": samples, "reference": root / "real", "protocol": "digits", "out": out,
        "metrics": "[fd,recall,vendi,precision]", "store": root / "store", **settings,
    }  # fmt: skip
    assert main(["evaluate", *(f"{key}={value}" for key, value in given.items())]) == 0
    return out


@pytest.fixture(scope="module")
def several(root):
    return scored(root, root / "several", "good", "noisy", "black <i>", teacher=root / "good")


def test_sets_of_one_call_are_told_apart_by_their_differences(several):
    text = (several / "report.html").read_text()
    apart = pd.read_parquet(several / "differences.parquet")
    assert "Which of these 3 sets of samples is closest to the reference?" in text
    assert "good has the lowest" in text and "lower than noisy by" in text
    assert "noisy</bdi> − <bdi>good" in text and "Samples of one name are partners" in text
    assert text.count("<tr data-name=") == 3 + 2 + 3, "with the first given, then every two"
    assert len(apart) == 3 * 4 and "3 differences." in text
    assert "black &lt;i&gt;" in text and "black <i>" not in text.partition("<script>")[0]
    assert text.count("evaluate") and text.count('class="command"') == 1, "one call, one command"


def test_each_claim_has_the_difference_of_its_pair():
    columns = [
        Column(("", "", "fd", ""), "FD", "", False, True),
        Column(("", "", "recall", ""), "Recall", "", True, False),
    ]
    rows = [
        ("a", [Cell(2.0, "2.0", "[1.5, 2.5]"), Cell(0.5, "0.50", "[0.45, 0.55]")]),
        ("b", [Cell(9.0, "9.0", "[8.5, 9.5]"), Cell(0.6, "0.60", "[0.55, 0.65]", bold=True)]),
    ]
    apart = pd.DataFrame(
        [("b", "a", "fd", 7.0, 6.0, 8.0), ("b", "a", "recall", 0.1, 0.06, 0.14)],
        columns=["set", "against", "metric", "difference", "ci_low", "ci_high"],
    )
    first, second = scores_differences.claims(columns, rows, apart)
    assert first.text == "a has the lowest, 2.0 [1.5, 2.5]; lower than b by 7.0 [6.0, 8.0]."
    assert second.text.endswith("0.60 [0.55, 0.65]; higher than a by 0.10 [0.06, 0.14].")
    # The other way round the same is said.
    turned = apart.assign(
        set="a", against="b", difference=-apart.difference, ci_low=-apart.ci_high,
        ci_high=-apart.ci_low,
    )  # fmt: skip
    assert [c.text for c in scores_differences.claims(columns, rows, turned)] == [
        first.text, second.text,
    ]  # fmt: skip
    alone, _ = scores_differences.claims(columns, rows, apart.iloc[:0])
    assert alone.text == "a has the lowest, 2.0 [1.5, 2.5]."
    many = [(f"s{i}", [Cell(float(i), str(i), "")]) for i in range(9)]
    (text,) = scores_differences.claims(columns[:1], many, pd.DataFrame([
        {"set": f"s{i}", "against": "s0", "metric": "fd", "difference": float(i),
         "ci_low": i - 0.5, "ci_high": i + 0.5} for i in range(1, 9)]))  # fmt: skip
    assert text.text.endswith("s3 by 3.0 [2.5, 3.5] and 5 others.")


def test_pictures_stand_under_names_and_in_the_tables_order(several):
    found = scores_pictures.read(several)
    order = ["noisy", "good", "black <i>"]
    made = scores_pictures.strips(found, order)
    assert [s.name for s in made] == ["reference", "teacher", *order]
    assert [s.kind for s in made] == ["control", "control", *["student"] * 3]
    assert all(s.count == 16 and s.tiles.height == 64 for s in made)
    page = (several / "report.html").read_text()
    assert page.count('class="strip"') == 5 and "16 pictures of reference" in page


def test_a_set_may_be_called_like_what_it_is_scored_against():
    rows = np.zeros((4, 8, 8, 3), np.uint8)
    made = scores_pictures.strips({"reference": rows, "b": rows}, ["b", "reference"])
    assert [(s.name, s.kind) for s in made] == [("b", "student"), ("reference", "student")]


def test_large_pictures_are_reduced_until_they_keep_within_the_budget():
    random = np.random.default_rng(0)
    rows = random.integers(0, 255, (16, 256, 256, 3)).astype(np.uint8)
    one = scores_pictures.strips({"a": rows}, ["a"])
    assert one[0].tiles.height == 80 and one[0].tiles.uri.startswith("data:image/webp")
    names = [f"s{i}" for i in range(300)]
    many = scores_pictures.strips(dict.fromkeys(names, rows), names)
    assert sum(len(s.tiles.uri) for s in many) < 8e6 and many[0].tiles.height < 80


def test_scores_without_pictures_and_differences_have_a_page(root, tmp_path):
    folder = scored(root, tmp_path / "one", "noisy")
    text = (folder / "report.html").read_text()
    assert "How close are these samples to the reference" in text
    assert text.count('class="strip"') == 2 and 'id="differences"' not in text
    (folder / "pictures.npz").unlink()
    assert 'class="strip"' not in scores.build_scores([folder]).read_text()


def test_folders_side_by_side_keep_their_pictures_and_differences(root, several, tmp_path):
    one = scored(root, tmp_path / "alone", "noisy", metrics="[fd,recall,vendi,precision]")
    path = scores.build_scores([several, one], tmp_path / "both.html")
    text = path.read_text()
    assert "16 pictures of several/good" in text and "16 pictures of alone" in text
    assert "several/noisy</bdi> − <bdi>several/good" in text
    assert text.count("16 pictures of reference") == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", "text"])
def test_damaged_pictures_are_refused_in_one_line(root, tmp_path, content):
    folder = scored(root, tmp_path / "one", "noisy")
    path = folder / "pictures.npz"
    if content == "text":
        np.savez(path, samples=np.zeros((2, 2)))
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"pictures\.npz: cannot be read .*score the samples again"):
        scores.build_scores([folder])


def test_each_n_has_its_own_differences(root, tmp_path):
    folder = scored(root, tmp_path / "n", "good", "noisy", n="[60,120]")
    apart = pd.read_parquet(folder / "differences.parquet")
    for n, name in ((60, "report-n60.html"), (120, "report.html")):
        text = (folder / name).read_text()
        gap = apart[(apart.n == n) & (apart.metric == "fd")].difference.iloc[0]
        assert f"{gap:.0f}" in text.partition("− <bdi>")[2][:600], (n, gap)
    assert len(json.loads((folder / "differences.json").read_text())) == 8


@pytest.mark.browser
@pytest.mark.parametrize("width, scheme", [(1440, "light"), (390, "dark")])
def test_the_first_screen_has_question_table_and_verdict(driver, several, width, scheme):
    assert serious(driver, several / "report.html", width, scheme) == []
    window(driver, width, 900 if width > 1000 else 844, scheme)
    try:
        driver.get((several / "report.html").as_uri())
        ready(driver)
        for selector in (".lead", "#scores .say", "#scores table"):
            part = driver.find_element("css selector", selector)
            assert part.is_displayed() and part.rect["y"] + part.rect["height"] < 844, selector
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        places = driver.execute_script(
            "return ['scores', 'differences', 'figures', 'pictures', 'provenance']"
            ".map((id) => document.getElementById(id).getBoundingClientRect().top)"
        )
        assert places == sorted(places)
        unfold(driver)
        marks = driver.execute_script(
            "return [...document.querySelectorAll('.plot')].map((p) =>"
            "p.querySelectorAll('.point').length)"
        )
        assert marks == [3, 3, 3, 3]
    finally:
        usual(driver)
