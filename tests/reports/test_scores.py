"""The page of scores: what it shows of one set and of several, and what it refuses."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from piflow_reports.scores.page import build_scores, render
from piflow_reports.scores.read import read
from piflow_reports.scores.tables import Measure, cells_of, table
from PIL import Image
from sklearn.datasets import load_digits

import piflow_bench
from piflow_bench.cli import main
from piflow_bench.errors import UserError
from tests.reports import browser
from tests.reports.axe import serious


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Scores of real, noisy and class-dropped digits, by class too; one name is no plain text."""
    root = tmp_path_factory.mktemp("scores")
    digits = load_digits()
    images = np.repeat((digits.images * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    noise = np.random.default_rng(0).integers(-110, 110, (300, 8, 8, 1))
    few = np.flatnonzero(digits.target < 4)[:300]
    sets = {
        "good <b>&\"'": (images[:300], digits.target[:300]),
        "noisy": ((images[300:600] + noise).clip(0, 255).astype(np.uint8), digits.target[300:600]),
        "half": (images[few], digits.target[few]),
    }
    np.savez(root / "real.npz", arr_0=images[900:1500], arr_1=digits.target[900:1500])
    for name, (rows, labels) in sets.items():
        table = piflow_bench.evaluate(
            rows, root / "real.npz", "digits", metrics=["fd", "recall", "vendi", "kid"],
            per_class=["vendi"] if name != "half" else [], labels=labels, kid_subset_size=200,
            cache=root / "features",
        )  # fmt: skip
        (root / name).mkdir()
        table.to_parquet(root / name / "scores.parquet", index=False)
    return [root / name for name in sets]


@pytest.fixture(scope="session")
def page(folders):
    return build_scores(folders)


def test_one_set_is_a_row_for_each_metric(folders):
    path = build_scores(folders[:1])
    assert path == folders[0] / "report.html"
    text = path.read_text()
    table = pd.read_parquet(folders[0] / "scores.parquet")
    fd = table[table["group"] == "all"].iloc[0]
    assert f"{fd['value']:.0f}" in text and "300 / 600" in text
    assert "delete-block jackknife over 20 blocks" in text
    assert "Plotly.newPlot" not in text.partition("use strict")[0], "no figure, no plotly"
    assert text.count('<span class="mark best">') == 1, "the most varied class"


def test_several_sets_are_ranked_by_the_first_metric(page, folders):
    text = page.read_text()
    assert page == folders[0].parent / "scores.html"
    rows = re.findall(r'<tr data-name="([^"]+)">', text)[:3]
    assert [row.split()[0] for row in rows] == ["good", "noisy", "half"]
    _, cells = table(read(folders))
    values = [pd.read_parquet(folder / "scores.parquet").value[0] for folder in folders]
    assert [row[0].value for _, row in cells] == sorted(values)
    assert cells[0][1][0].bold and not cells[2][1][0].bold
    assert text.count('class="plot"') == 4 and "Plotly" in text, "none of kid_std"


def test_bold_is_the_best_and_what_its_interval_overlaps():
    def row(name, value, half):
        low, high = value - half, value + half
        return dict(set=name, value=value, ci_low=low, ci_high=high, metric="recall")

    table = pd.DataFrame([row("a", 0.5, 0.1), row("b", 0.6, 0.05), row("c", 0.3, 0.1)])
    _, rows = cells_of(table, [Measure("recall")], "set")
    assert [(name, cells[0].bold) for name, cells in rows] == [
        ("b", True), ("a", True), ("c", False),
    ]  # fmt: skip
    unknown = table.assign(ci_low=np.nan, ci_high=np.nan)
    _, rows = cells_of(unknown, [Measure("recall")], "set")
    assert [cells[0].bold for _, cells in rows] == [True, False, False]


def test_the_same_scores_give_the_same_bytes(page, folders):
    first = page.read_bytes()
    assert build_scores(folders).read_bytes() == first


def test_names_are_escaped_everywhere(page, folders):
    text = page.read_text().partition("<script>")[0]
    assert "<b>&amp;" not in text and "good &lt;b&gt;&amp;" in text
    exports = page.parent / "exports"
    assert "good \\<b\\>" in (exports / "scores.md").read_text()
    assert r"good \textless{}b\textgreater{}\&" in (exports / "scores.tex").read_text()
    assert len(pd.read_csv(exports / "scores.csv")) == len(read(folders))


def test_different_protocols_are_refused_with_the_rule_named(folders, tmp_path):
    other = pd.read_parquet(folders[0] / "scores.parquet")
    rules = json.loads(other["rules"][0]) | {"k": 5}
    other = other.assign(rules=json.dumps(rules), protocol_hash="000000000000")
    other.to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="differ in k: 5 and 3;"):
        build_scores([folders[0], tmp_path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


PAIRS = ("kid_exact", "energy_distance")


@pytest.fixture(scope="module")
def laws(tmp_path_factory):
    """Scores of sets whose classes are unknown, balanced, drawn, and a part of drawn ones."""
    root = tmp_path_factory.mktemp("laws")
    digits = load_digits()
    images = np.repeat((digits.images * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    random = np.random.default_rng(0)
    few = random.choice(np.flatnonzero(digits.target < 4), 200, replace=False)
    turns = np.concatenate([np.flatnonzero(digits.target == i)[:10] for i in range(10)])
    sets = {
        "unknown": (images[:100], None, None),
        "balanced": (images[turns], digits.target[turns], None),
        "drawn": (images[100:200], digits.target[100:200] % 7, None),
        "part": (images[few], digits.target[few], 100),
    }
    for name, (rows, labels, n) in sets.items():
        found = piflow_bench.evaluate(
            rows, images[900:1500], "digits", metrics=["fd", *PAIRS], labels=labels, n=n,
            cache=root / "features",
        )  # fmt: skip
        (root / name).mkdir()
        found.to_parquet(root / name / "scores.parquet", index=False)
    return root


def test_sets_of_any_labels_share_a_page_and_their_pair_statistics_where_they_compare(laws):
    """FD is one column whatever is known of classes; KID one for each estimator."""
    names = ("unknown", "balanced", "drawn", "part")
    found = read([laws / name for name in names])
    columns, rows = table(found)
    cells = {
        column.label: [name for name, row in rows if np.isfinite(row[i].value)]
        for i, column in enumerate(columns)
    }
    assert len(cells) == 1 + 2 * 3 and set(cells["FD"]) == set(names)
    plain = {"unknown", "drawn"}
    for label in ("KID, all pairs", "Energy dist."):
        apart = {key: set(value) for key, value in cells.items() if key.startswith(label)}
        assert sorted(map(sorted, apart.values())) == [["balanced"], ["drawn", "unknown"], ["part"]]
        assert any(key.endswith("U-statistic") and value == plain for key, value in apart.items())
    text = render(found)
    assert "each estimator has a column of its own" in text
    assert text.count('class="plot"') == len(columns)
    together, _ = table(read([laws / name for name in plain]))
    assert [column.label for column in together][1:] == ["KID, all pairs", "Energy dist."]


def test_bold_is_the_best_of_its_estimator(laws):
    columns, rows = table(read([laws / name for name in ("unknown", "balanced")]))
    for i, column in enumerate(columns):
        known = [row[i] for _, row in rows if np.isfinite(row[i].value)]
        assert len(known) == (2 if column.label == "FD" else 1)
        assert any(cell.bold for cell in known) == (column.label == "FD"), "one has no rival"


@pytest.mark.parametrize("confidence, told", [(0.9, "90 %"), (0.683, "68.3 %"), (0.999, "99.9 %")])
def test_intervals_are_called_what_they_are(folders, tmp_path, capsys, confidence, told):
    """On the terminal, on the page of one set and of several, and in the exports."""
    images = np.repeat((load_digits().images * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
    for name, rows in (("a", images[:60]), ("b", images[60:120])):
        np.savez(tmp_path / f"{name}.npz", rows)
        command = [f"samples={tmp_path / name}.npz", f"reference={folders[0].parent / 'real.npz'}",
                   "protocol=digits", "metrics=[fd,vendi]", f"confidence={confidence}",
                   f"store={tmp_path / 'store'}", f"out={tmp_path / name}"]  # fmt: skip
        assert main(["evaluate", *command]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"{told} interval" in said and "95 %" not in said
    for number in (1, 2):
        places = [tmp_path / name for name in "ab"[:number]]
        page = build_scores(places, tmp_path / f"{number}" / "page.html")
        text = page.read_text().partition("<script>")[0]
        assert f"{told} interval" in text and "95 %" not in text
        assert f"Brackets: {told} interval." in (page.parent / "exports/scores.md").read_text()
    table = pd.read_parquet(tmp_path / "a" / "scores.parquet")
    assert set(table["confidence"]) == {confidence}
    with pytest.raises(UserError, match=rf"^intervals of {told} \(a\) and of 95 % .*confidence="):
        build_scores([tmp_path / "a", with_confidence(table, 0.95, tmp_path / "c")])


def with_confidence(table, confidence, folder):
    folder.mkdir()
    table.assign(confidence=confidence).to_parquet(folder / "scores.parquet")
    return folder


def test_older_scores_and_scores_without_intervals_are_read(folders, tmp_path):
    """Before their confidence was kept, intervals were of 95 %; none contradict none."""
    table = pd.read_parquet(folders[0] / "scores.parquet")
    table.drop(columns="confidence").to_parquet(tmp_path / "scores.parquet")
    assert "95 % interval" in build_scores([tmp_path], tmp_path / "page.html").read_text()
    bare = with_confidence(table.assign(ci_low=np.nan, ci_high=np.nan), 0.5, tmp_path / "bare")
    assert "95 % interval" in render(read([bare, folders[0]]))


def test_what_cannot_be_read_is_named(folders, tmp_path, capsys):
    (tmp_path / "scores.parquet").write_bytes(b"PAR1")
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    pd.DataFrame({"metric": ["fd"]}).to_parquet(tmp_path / "scores.parquet")
    assert main(["report", str(tmp_path)]) == 2
    assert "no column 'group'" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["report", str(folders[0]), str(folders[0])]) == 2
    assert "named twice" in capsys.readouterr().err


def test_the_verb_builds_the_page(folders, tmp_path, capsys):
    out = tmp_path / "all.html"
    assert main(["report", *map(str, folders), f"out={out}"]) == 0
    assert capsys.readouterr().out.strip() == str(out) and out.is_file()


def test_what_weakens_scores_and_what_made_them_are_on_the_page(folders, tmp_path, capsys):
    """The verb on JPEGs, fewer than their features have dimensions."""
    images = load_digits().images[:40]
    (tmp_path / "jpegs").mkdir()
    for number, image in enumerate(images):
        picture = Image.fromarray((image * 255 / 16).astype(np.uint8)).convert("RGB")
        picture.save(tmp_path / "jpegs" / f"{number:02d}.jpg")
    settings = [f"samples={tmp_path / 'jpegs'}", f"reference={folders[0].parent / 'real.npz'}",
                "protocol=digits", "metrics=[fd]", f"store={tmp_path / 'store'}"]  # fmt: skip
    assert main(["evaluate", *settings, f"out={tmp_path / 'out'}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    text = build_scores([tmp_path / "out"]).read_text()
    both = ("40 of 40 files are of a lossy format", "n = 40 samples span less than the 64 dimen")
    for warning in both:
        assert warning in said and warning in text
    assert "python -m piflow_bench evaluate" in text and "samples=" in text and "torch: " in text
    good = build_scores(folders[:1]).read_text()
    assert "lossy" not in good and "dimensions of their features" not in good


def test_every_figure_has_its_numbers(page):
    text = page.read_text()
    assert text.count('class="plot"') == text.count("<summary>Numbers</summary>") == 4


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 768, 1440])
def test_browser_shows_it_whole_at_every_width(driver, page, width):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=width, height=900, deviceScaleFactor=1, mobile=False))  # fmt: skip
    driver.get_log("browser")
    driver.get(page.as_uri())
    browser.wait_for_figures(driver)
    assert driver.get_log("browser") == []
    inner, outer = driver.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert inner <= outer
    names = (
        "return [...document.querySelector('table.ranking').querySelectorAll('tr[data-name]')]"
        ".map((row) => row.cells[0].textContent.split(' ')[0])"
    )
    assert driver.execute_script(names) == ["good", "noisy", "half"]
    driver.execute_script("document.querySelector('table.ranking button[data-sort=name]').click()")
    assert driver.execute_script(names) == ["good", "half", "noisy"]


@pytest.mark.browser
@pytest.mark.parametrize("width, scheme", [(1440, "dark"), (390, "light")])
def test_the_page_is_accessible(driver, page, width, scheme):
    assert serious(driver, page, width, scheme) == []
