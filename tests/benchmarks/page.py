"""The page of a large run: ``python -m tests.benchmarks.page``.

Thirty variants at 4 NFE with 3 seeds and 12 metrics: seconds to build it, beside six variants in
the same run, its size, and in Chromium the first paint and the best of some passes of each filter.
"""

import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import piflow_reports

from tests.reports import browser, synthetic

MORE = ("fd_infinity", "kid_exact", "cmmd", "density", "vendi", "authpct", "teacher_mse")
FILTER = """
const input = document.querySelector('.rankings .filter');
const times = [], shown = [];
const rows = () => [...document.querySelectorAll('.rankings tr')].filter(r => !r.hidden).length;
for (const word of ['variant-1', 'method3', 'scratch', '']) {
  const start = performance.now();
  input.value = word;
  input.dispatchEvent(new Event('input'));
  document.body.getBoundingClientRect();
  times.push(performance.now() - start);
  shown.push(rows());
}
for (const select of document.querySelectorAll('.rankings .narrow')) {
  for (const value of [select.options[1].value, '']) {
    const start = performance.now();
    select.value = value;
    select.dispatchEvent(new Event('change'));
    document.body.getBoundingClientRect();
    times.push(performance.now() - start);
    shown.push(rows());
  }
}
return [times, shown];
"""
"""Sets each filter and takes it back: milliseconds until the layout, rows that are left."""


def run(folder: Path, variants: int) -> Path:
    """Write a run of so many made-up variants x 4 NFE x 3 seeds x 12 metrics."""
    random = np.random.default_rng(0)
    students = {
        f"variant-{i:02d}": (
            f"method{i % 6}",
            "from scratch" if i % 5 == 0 else "distilled",
            2 + 6 * random.random(),
            0.4 + 0.4 * random.random(),
        )
        for i in range(variants)
    }
    few = synthetic.values

    def values(*arguments: object) -> dict[str, float]:
        found = few(*arguments)
        return found | {name: found["fd"] / 3 for name in MORE}

    higher = {name: name in ("density", "vendi") for name in MORE}
    with mock.patch.multiple(
        synthetic, STUDENTS=students, values=values, METRICS=synthetic.METRICS | higher
    ):
        return synthetic.write(folder, 3, tuple(students), (1, 2, 4, 8), failed=False)


def main() -> None:
    """Print what is measured."""
    with tempfile.TemporaryDirectory() as folder:
        took = {}
        for variants in (6, 30):
            large = run(Path(folder) / str(variants), variants)
            start = time.process_time()
            page = piflow_reports.build(large)
            took[variants] = time.process_time() - start
            print(f"{variants} variants: {took[variants]:.1f} s of CPU, "
                  f"{page.stat().st_size / 1e6:.1f} MB")  # fmt: skip
        print(f"per variant x{took[30] / 5 / took[6]:.2f}")
        driver = browser.start(Path(folder) / "chromium")
        try:
            driver.get(page.as_uri())
            browser.wait_for_figures(driver)
            paint = "return performance.getEntriesByType('paint')[0].startTime"
            print(f"first paint {driver.execute_script(paint):.0f} ms")
            first, *later = (driver.execute_script(FILTER)[0] for _ in range(6))
            print(f"filters, first pass, which parses what each cell holds: {max(first):.0f} ms")
            print(f"filters, best of five passes: {max(np.min(later, axis=0)):.0f} ms")
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
