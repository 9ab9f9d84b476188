"""Names that mean harm, or only look strange, are shown as text and break nothing."""

import json
import time

import numpy as np
import pandas as pd
import piflow_reports
import pytest
from piflow_reports.format import names as words

from tests.reports import synthetic
from tests.reports.looking import unfold

SCRIPT = "<script>window.harm = 1</script>"
IMAGE = "\"><img src=x onerror='window.harm = 1'>"
ARABIC = "نموذج ‮gpj.exe"  # With an override that would turn what follows it around.
EMOJI = "👩‍🚀 π-flow ✨"
LONG = "a-very-long-name-" * 30
TEMPLATE = "{{ 7 * 7 }} %{y} </style></textarea>--> \\u003c ${1} & 'quotes\""
NAMES = (SCRIPT, IMAGE, ARABIC, EMOJI, LONG, TEMPLATE)
PROMPTS = ["</td><script>window.harm = 1</script>", "قطة على سجادة", "🦊 on a hill", "x" * 400]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run in which variants, labels, reasons, warnings and references are hostile."""
    folder = synthetic.write(tmp_path_factory.mktemp("hostile"), seeds=2)
    old = dict(zip(synthetic.STUDENTS, NAMES, strict=False))
    for file in ("results", "curves", "breakdown"):
        table = pd.read_parquet(folder / f"{file}.parquet")
        table["variant"] = table["variant"].replace(old)
        if file == "results":
            lost = (table.variant == EMOJI) & (table.nfe == 4)
            table.loc[lost, ["value", "status", "reason"]] = [np.nan, "failed", TEMPLATE + LONG]
            table.loc[table.variant == LONG, "sampler"] = IMAGE
        table.to_parquet(folder / f"{file}.parquet", index=False)
    for file, key in (("grids", "rows"), ("selections", "cells")):
        with np.load(folder / f"{file}.npz") as data:
            arrays = dict(data)
        rows = json.loads(str(arrays[key]))
        for row in rows:
            row["variant"] = old.get(row["variant"], row["variant"])
        arrays[key] = np.array(json.dumps(rows))
        if file == "grids":
            arrays["labels"] = np.array(PROMPTS * 4)
        np.savez(folder / f"{file}.npz", **arrays)
    info = json.loads((folder / "run.json").read_text())
    for variant in info["variants"]:
        variant["name"] = old[variant["name"]]
        variant["paper"] = variant["tuning"] = TEMPLATE
    info["title"] = SCRIPT + ARABIC + LONG
    info["warnings"] = list(NAMES)
    info["failures"] = [{"stage": IMAGE, "variant": ARABIC, "reason": SCRIPT, "log": [TEMPLATE]}]
    info["references"] = [{"method": SCRIPT, "nfe": 1, "metric": "FID", "value": "2.0",
                           "source": IMAGE, "note": TEMPLATE}]  # fmt: skip
    info["config"] = TEMPLATE + "</pre>" + SCRIPT
    info["command"] = f"python -m piflow_bench run '{SCRIPT}'"
    (folder / "run.json").write_text(json.dumps(info))
    piflow_reports.build(folder)
    return folder


@pytest.mark.browser
def test_nothing_runs_and_everything_is_shown(driver, folder):
    driver.get((folder / "report.html").as_uri())
    unfold(driver)
    assert driver.execute_script("return window.harm") is None
    severe = [e for e in driver.get_log("browser") if e["level"] == "SEVERE"]
    assert severe == []
    text = driver.execute_script("return document.querySelector('main').textContent")
    for name in NAMES:
        assert name in text, name
    titles = "return [...document.querySelectorAll('.labels span')].map(s => s.textContent)"
    assert set(PROMPTS) <= set(driver.execute_script(titles))
    # No element came from a name, and plotly made no link or picture of one.
    assert driver.execute_script("return document.querySelectorAll('img[src=x], a[onerror]')") == []
    assert (
        driver.execute_script("return document.querySelectorAll('main script:not([type])')") == []
    )
    ticks = driver.execute_script(
        "return [...document.querySelectorAll('.ytick text')].map(t => t.textContent)"
    )
    assert any("👩" in t for t in ticks)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 390])
def test_long_names_do_not_widen_the_page(driver, folder, width):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=width, height=900, deviceScaleFactor=1, mobile=False))  # fmt: skip
    try:
        driver.get((folder / "report.html").as_uri())
        time.sleep(1)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_exports_hold_the_names(folder):
    exports = folder / "exports"
    table = pd.read_csv(exports / "ranking.csv")
    assert {SCRIPT, ARABIC, EMOJI} <= set(table.variant)
    tex = (exports / "ranking.tex").read_text()
    assert r"\textless{}script" in tex and "<script" not in tex
    markdown = (exports / "ranking.md").read_text()
    assert "<script" not in markdown.replace("\\<script", "")
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    bars = {line.replace("\\|", "").count("|") for line in lines[:6]}
    assert len(bars) == 1


def test_a_name_keeps_its_direction_inside_a_sentence():
    assert words.isolated("dmd2") == "dmd2"
    assert words.isolated("π-flow") == "π-flow"
    assert words.isolated("نموذج") == "\u2068نموذج\u2069"
