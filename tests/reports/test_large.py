"""Large runs: thirty variants' page opens and filters; ten variants' photographs stay small."""

import json

import numpy as np
import pandas as pd
import piflow_reports
import pytest

from tests.benchmarks import page
from tests.reports import browser, synthetic

VARIANTS = 30


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """30 variants x 4 NFE x 3 seeds x 12 metrics."""
    folder = page.run(tmp_path_factory.mktemp("large"), VARIANTS)
    table = pd.read_parquet(folder / "results.parquet")
    own = table[(table.role == "student") & (table.budget_fraction == 1)]
    cells = own[["variant", "nfe", "train_seed"]].drop_duplicates()
    assert len(cells) == VARIANTS * 4 * 3 and table.metric.nunique() == 12
    piflow_reports.build(folder)
    return folder


def test_it_can_be_sent(large):
    assert (large / "report.html").stat().st_size < 15e6


@pytest.mark.browser
def test_it_opens_and_filters(driver, large):
    driver.get((large / "report.html").as_uri())
    browser.wait_for_figures(driver)
    _, (few, method, scratch, every, *narrowed) = driver.execute_script(page.FILTER)
    assert 10 <= few < every and 5 <= method < every and 6 <= scratch < every
    assert every > VARIANTS and narrowed[1::2] == [every] * (len(narrowed) // 2)
    assert all(0 < rows <= every for rows in narrowed[::2]) and min(narrowed) < every
    driver.execute_script("document.querySelector('.legend button').click()")
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []


def photographs(count, size, seed):
    """Smooth random colour fields with some grain, about as compressible as photographs."""
    random = np.random.default_rng(seed)
    coarse = random.random((count, size // 16 + 1, size // 16 + 1, 3))
    fine = np.repeat(np.repeat(coarse, 16, axis=1), 16, axis=2)[:, :size, :size]
    waves = sum(np.roll(fine, shift, axis) for axis in (1, 2) for shift in range(-8, 8)) / 32
    grain = 0.03 * random.standard_normal(waves.shape)
    return (255 * (waves + grain)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("pixels, nfes", [
    (256, (1, 2)), pytest.param(32, (1, 2, 4, 8), marks=pytest.mark.thorough),
])  # fmt: skip
def test_ten_variants_of_photographs_stay_below_15_megabytes(tmp_path, pixels, nfes):
    students = {f"student-{i}": ("kd", "distilled", 3.0 + i, 0.6) for i in range(10)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "STUDENTS", students)
        folder = synthetic.write(tmp_path, 1, tuple(students), nfes, failed=False)
    with np.load(folder / "grids.npz") as data:
        grid = dict(data)
    images = photographs(40, pixels, 0)
    for i, row in enumerate(json.loads(str(grid["rows"]))):
        grid[row["key"]] = np.roll(images, i, axis=1)
    grid |= {"labels": np.arange(40), "index": np.arange(40)}
    np.savez(folder / "grids.npz", **grid)
    with np.load(folder / "selections.npz") as data:
        picked = {k: images[:10] if k != "cells" else v for k, v in data.items()}
    np.savez(folder / "selections.npz", **picked)
    page = piflow_reports.build(folder)
    size = page.stat().st_size
    print(f"{size / 1e6:.1f} MB")
    text = page.read_text("utf-8")
    assert size < 15e6
    assert text.count("data:image/webp") > 22 * len(nfes)
    assert "Compressed with loss" in text
    assert ("Reduced for the page" in text) == (pixels > 128)
