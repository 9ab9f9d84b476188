"""Large runs: thirty variants build, open and filter quickly; ten variants' photographs stay small.

Times are printed and bounded generously: benchmarks measure, tests only see that nothing explodes.
"""

import json
import time

import numpy as np
import pandas as pd
import piflow_reports
import pytest

from tests.reports import synthetic

MORE = ("fd_infinity", "kid_exact", "cmmd", "density", "vendi", "authpct", "teacher_mse")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """30 variants x 4 NFE x 3 seeds x 12 metrics, and the seconds that its page took."""
    random = np.random.default_rng(0)
    students = {
        f"variant-{i:02d}": (
            f"method{i % 6}",
            "from scratch" if i % 5 == 0 else "distilled",
            2 + 6 * random.random(),
            0.4 + 0.4 * random.random(),
        )
        for i in range(30)
    }
    few = synthetic.values

    def values(*arguments):
        found = few(*arguments)
        return found | {name: found["fd"] / 3 for name in MORE}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "STUDENTS", students)
        patch.setattr(synthetic, "values", values)
        patch.setattr(synthetic, "METRICS", synthetic.METRICS | {
            name: name in ("density", "vendi") for name in MORE})  # fmt: skip
        folder = synthetic.write(tmp_path_factory.mktemp("large"), 3, tuple(students), (1, 2, 4, 8),
                                 failed=False)  # fmt: skip
    table = pd.read_parquet(folder / "results.parquet")
    own = table[(table.role == "student") & (table.budget_fraction == 1)]
    cells = own[["variant", "nfe", "train_seed"]].drop_duplicates()
    assert len(cells) == 30 * 4 * 3 and table.metric.nunique() == 12
    started = time.perf_counter()
    piflow_reports.build(folder)
    return folder, time.perf_counter() - started


def test_it_builds_in_seconds(large):
    folder, seconds = large
    size = (folder / "report.html").stat().st_size / 1e6
    print(f"built in {seconds:.1f} s, {size:.1f} MB")
    assert seconds < 60
    assert size < 15


FILTER = """
const input = document.querySelector('.rankings .filter');
const times = [];
for (const word of ['variant-1', 'method3', 'scratch', '']) {
  const start = performance.now();
  input.value = word;
  input.dispatchEvent(new Event('input'));
  document.body.getBoundingClientRect();
  times.push(performance.now() - start);
}
for (const select of document.querySelectorAll('.rankings .narrow')) {
  for (const value of [select.options[1].value, '']) {
    const start = performance.now();
    select.value = value;
    select.dispatchEvent(new Event('change'));
    document.body.getBoundingClientRect();
    times.push(performance.now() - start);
  }
}
return times;
"""


@pytest.mark.browser
def test_it_opens_and_filters_without_delay(driver, large):
    folder, _ = large
    driver.get((folder / "report.html").as_uri())
    shown = driver.execute_script(
        "return performance.getEntriesByType('paint').map(e => e.startTime)[0] ?? null"
    )
    deadline = time.monotonic() + 120
    while not driver.execute_script("return document.body.dataset.ready || ''"):
        assert time.monotonic() < deadline, "the figures were not drawn"
        time.sleep(0.2)
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
    first, *later = (driver.execute_script(FILTER) for _ in range(4))
    # The best of some passes: other work on the machine is not the page's delay.
    times = np.min(later, axis=0)
    print(f"first paint {shown} ms, filters {times.round().tolist()} ms")
    print(f"at the first pass, which parses what each cell holds, at most {max(first):.0f} ms")
    assert times.max() < 200
    click = driver.execute_async_script(
        "const done = arguments[0], start = performance.now();"
        "document.querySelector('.legend button').click();"
        "setTimeout(() => done(performance.now() - start), 0)"
    )
    assert click < 1000


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
