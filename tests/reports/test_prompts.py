"""The page of a text-to-image run in a browser: captions, and the walls of single prompts."""

import json

import numpy as np
import piflow_reports
import pytest

from tests.reports import synthetic
from tests.reports.looking import unfold, wait
from tests.reports.test_browser import choose

pytestmark = pytest.mark.browser

PROMPTS = (
    "a red square on a blue floor",
    'A sign that says "50 % off" in front of a shop, at dusk, and some people who look at it',
    "ein grüner Käfer 🐞",
    "two dogs",
)
SEEDS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of which the samples of a prompt lie together."""
    folder = synthetic.write(tmp_path_factory.mktemp("prompts"), failed=False)
    with np.load(folder / "grids.npz") as data:
        arrays = dict(data)
    arrays["labels"] = np.array([text for text in PROMPTS for _ in range(SEEDS)])
    np.savez(folder / "grids.npz", **arrays)
    piflow_reports.build(folder)
    return folder


@pytest.fixture(scope="module", params=[1440, 390])
def opened(chromium, folder, request):
    """The page, loaded once for all that look at it; they leave it as it was."""
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=request.param, height=900, deviceScaleFactor=1, mobile=False))  # fmt: skip
    chromium.get_log("browser")
    chromium.get((folder / "report.html").as_uri())
    unfold(chromium)
    yield chromium
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_sample_has_its_prompt(opened):
    script = "return [...document.querySelectorAll('table.grid .labels span')].map(s => s.title)"
    seen = opened.execute_script(script)
    assert seen[: len(PROMPTS) * SEEDS] == [text for text in PROMPTS for _ in range(SEEDS)]
    note = opened.find_element("css selector", "section[id$=samples] .note").text
    assert "shares its noise and prompt" in note
    width = "return [document.documentElement.scrollWidth, window.innerWidth]"
    wait(lambda: (found := opened.execute_script(width))[0] <= found[1])
    assert [e for e in opened.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.parametrize("text", PROMPTS)
def test_the_wall_of_a_prompt_has_models_as_rows_and_seeds_as_columns(text, opened):
    select = opened.find_element("css selector", ".label-filter")
    offered = [o.get_attribute("value") for o in select.find_elements("css selector", "option")]
    assert sorted(offered) == sorted(["", *PROMPTS])
    choose(opened, select, text)
    table = opened.find_element("css selector", "table.grid[data-labels]")
    assert json.loads(table.get_attribute("data-labels")).count(text) == SEEDS
    walls = table.find_elements("css selector", "button.strip canvas")
    assert len(walls) == len(table.find_elements("css selector", "tbody tr")) > 3
    assert {opened.execute_script("return arguments[0].width", w) for w in walls} == {SEEDS * 9 - 1}
    opened.execute_script(
        "const box = arguments[0].getBoundingClientRect();"
        "arguments[0].dispatchEvent(new MouseEvent('click', {detail: 1, bubbles: true,"
        "clientX: box.left + 2}))", walls[0],
    )  # fmt: skip
    words = opened.execute_script("return document.querySelector('dialog .which').textContent")
    assert words == f"Sample {PROMPTS.index(text) * SEEDS}, prompt {text}"
    opened.find_element("css selector", "dialog .close").click()
    choose(opened, select, "")


def test_the_first_screen_shows_the_seeds_of_prompts(opened):
    strips = opened.find_elements("css selector", ".glance.on table.strips tbody tr")
    assert len(strips) > 3
    counts = {
        s.get_attribute("style").split("--count:")[1].strip(" ;")
        for row in strips
        for s in row.find_elements("css selector", "button.strip")
    }
    assert len(counts) == 1 and int(counts.pop()) >= SEEDS
