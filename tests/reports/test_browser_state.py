"""Switches of the page in a headless Chromium: one choice does not undo another."""

import json
import time

import pandas as pd
import piflow_reports
import pytest

from tests.reports import synthetic
from tests.reports.axe import serious
from tests.reports.looking import unfold, wait
from tests.reports.test_browser import NAMES

pytestmark = pytest.mark.browser


def test_rows_without_a_train_seed_show_none_and_the_order_follows(driver, tmp_path):
    folder = synthetic.write(tmp_path, seeds=3)
    table = pd.read_parquet(folder / "results.parquet")
    unfinished = (table.variant == "piflow-gm8") & (table.train_seed > 0)
    table[~unfinished].to_parquet(folder / "results.parquet")
    driver.get(piflow_reports.build(folder).as_uri())
    fd = next(
        head
        for head in driver.find_elements("css selector", ".rankings table thead button")
        if head.text.startswith("FD")
    )
    driver.execute_script("arguments[0].click()", fd)
    assert driver.execute_script(NAMES)[0] == "piflow-gm8"
    driver.execute_script(
        "const s = document.querySelector('.narrow[data-by=seed]'); s.value = '2';"
        "s.dispatchEvent(new Event('change'))"
    )
    names = driver.execute_script(NAMES)
    assert names[-1] == "piflow-gm8", "a hole is last in every order"
    cells = driver.execute_script(
        "const rows = [...document.querySelectorAll('.rankings tbody.student tr[data-name]')];"
        "return rows.slice(0, arguments[0]).map(r => r.cells[2].innerText.trim())",
        len(names),
    )
    assert cells[-1] == "—"
    shown = [float(text) for text in cells[:-1]]
    assert shown == sorted(shown) and len(shown) > 1


def test_what_is_hidden_before_it_is_drawn_stays_hidden(driver, five_seeds):
    driver.get((five_seeds / "report.html").as_uri())
    name = driver.execute_script(
        "const drawn = document.querySelectorAll('.plot[data-drawn]').length;"
        "const all = document.querySelectorAll('.plot').length;"
        "if (drawn > all / 2) throw new Error(`too late: ${drawn} of ${all}`);"
        "const button = document.querySelector('.legend button'); button.click();"
        "document.querySelector('.published-switch').click(); return button.dataset.series"
    )
    unfold(driver)
    shown = (
        "return [...document.querySelectorAll('.plot')].flatMap(p => p.data)"
        ".filter(t => arguments[0].includes(t.meta) && t.visible !== false).length"
    )
    wait(lambda: driver.execute_script(shown, [name, "published:"]) == 0)


def test_a_live_page_is_opened_again_when_it_was_made_again(driver, tmp_path):
    folder = synthetic.write(tmp_path, failed=False)
    info = json.loads((folder / "run.json").read_text())
    info["live"] = {"done": 1, "total": 9, "refresh": 0.2, "stamp": "1-0"}
    (folder / "run.json").write_text(json.dumps(info))
    script = "window.piflowStamp && window.piflowStamp({});"
    (folder / "stamp.js").write_text(script.format('"1-0"'))
    page = piflow_reports.build(folder)
    assert serious(driver, page, 1440, "light") == []
    driver.execute_script("window.kept = true")
    time.sleep(1)
    assert driver.execute_script("return window.kept"), "nothing is new"
    box = driver.find_element("css selector", ".refresh")
    driver.execute_script("arguments[0].click()", box)
    (folder / "stamp.js").write_text(script.format('"2-0"'))
    time.sleep(1)
    assert driver.execute_script("return window.kept"), "the reader does not want it"
    driver.execute_script("arguments[0].click()", box)
    wait(lambda: not driver.execute_script("return window.kept || false"))
    assert [m for m in driver.get_log("browser") if m["level"] == "SEVERE"] == []
