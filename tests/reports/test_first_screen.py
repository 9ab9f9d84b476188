"""The first screen: question, verdict, trade-off and samples of one NFE, and what follows it."""

import json
from functools import cache

import numpy as np
import pandas as pd
import piflow_reports
import pytest

from piflow_bench.evaluation.metrics.metric import all_metrics
from tests.reports import synthetic
from tests.reports.axe import serious
from tests.reports.looking import ready, usual, wait, window

pytestmark = pytest.mark.browser

STUDENTS = {
    "piflow-gm8": ("piflow", "distilled", 2.1, 0.71),
    "meanflow": ("meanflow", "distilled", 2.4, 0.76),
    "dmd2": ("dmd2", "distilled", 2.9, 0.48),
    "kd": ("kd", "distilled", 5.2, 0.55),
}
SIZES = [(1440, 900), (390, 844)]
BOXES = """
const box = (e) => { const b = e.getBoundingClientRect();
  return [b.left, b.top, b.right, b.bottom].map(Math.round); };
return Object.fromEntries(arguments[0].map((s) => [s, [...document.querySelectorAll(s)]
  .filter((e) => e.getClientRects().length).map(box)]));
"""
CUT = """
const texts = [...document.querySelectorAll('.glance.on :is(h2, h3, p, th, figcaption, .legend),'
  + '.asked :is(.lead, .switch)')].filter((e) => e.getClientRects().length
  && !e.classList.contains('switched'));
const wide = texts.filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)
  .map((e) => 'wide: ' + e.textContent.trim().slice(0, 60));
const plot = document.querySelector('.glance.on .plot').getBoundingClientRect();
const labels = [...document.querySelectorAll('.glance.on .plot svg text')].filter((t) => {
  const b = t.getBoundingClientRect();
  return b.width && (b.left < plot.left - 1 || b.right > plot.right + 1
    || b.top < plot.top - 1 || b.bottom > plot.bottom + 1);
}).map((t) => 'label: ' + t.textContent);
return [...wide, ...labels];
"""


@pytest.fixture(scope="module")
def like_default(tmp_path_factory):
    """A run like the default one: four students of one seed at 1 and 4 NFE, one warning."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "STUDENTS", STUDENTS)
        synthetic.write(folder, 1, tuple(STUDENTS), failed=False)
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"failures": []}))
    return piflow_reports.build(folder)


@pytest.fixture(scope="module")
def of_points(tmp_path_factory):
    """The same of points in the plane."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "STUDENTS", STUDENTS)
        folder = synthetic.write(
            tmp_path_factory.mktemp("points"), 5, tuple(STUDENTS), points=True, failed=False
        )
    return piflow_reports.build(folder)


@pytest.fixture
def opened(driver):
    """Opens a page in a window of some size."""

    def open_(page, width, height, scheme="light", anchor=""):
        driver.get("about:blank")
        window(driver, width, height, scheme)
        driver.get(page.as_uri() + anchor)
        ready(driver)
        return driver

    yield open_
    usual(driver)


def overlaps(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 0 and min(a[3], b[3]) - max(a[1], b[1]) > 0


@pytest.mark.parametrize("width, height", SIZES)
@pytest.mark.parametrize("kind", ["like_default", "of_points"])
def test_it_holds_what_people_look_for_first(opened, request, kind, width, height):
    driver = opened(request.getfixturevalue(kind), width, height)
    for nfe in (1, 4):
        driver.find_element("css selector", f".switch input[value='{nfe}']").click()
        ready(driver)
        holds_what_people_look_for(driver, kind, width, height)
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []


def holds_what_people_look_for(driver, kind, width, height):
    rows = ".glance.on .strips tr" if kind == "like_default" else ".glance.on .panels figure"
    parts = ["h1", ".lead", ".switch", ".alerts", ".claims", ".trade .plot", ".trade .legend",
             ".beside h2", rows]  # fmt: skip
    boxes = driver.execute_script(BOXES, parts)
    assert all(boxes[part] for part in parts), boxes
    for part in parts[:-1]:
        (box,) = boxes[part]
        assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height, (part, box)
    teacher, *students = boxes[rows]
    assert len(students) == len(STUDENTS)
    inside = boxes[rows] if width > 1000 else [teacher]
    least = 1 if width > 1000 or kind == "like_default" else 0.3
    for box in inside:
        shown = (min(box[3], height) - box[1]) / (box[3] - box[1])
        assert shown >= least and box[2] <= width, (box, height)
    assert driver.execute_script(CUT) == []
    listed = [box for part in (*parts[:4], ".claims", ".trade .plot", rows) for box in boxes[part]]
    pairs = [(a, b) for i, a in enumerate(listed) for b in listed[i + 1 :]]
    assert not [pair for pair in pairs if overlaps(*pair)]


@pytest.mark.parametrize("width, scheme", [
    pytest.param(1440, "dark", marks=pytest.mark.thorough), (390, "light"),
])  # fmt: skip
def test_nobody_is_shut_out(driver, like_default, width, scheme):
    assert serious(driver, like_default, width, scheme) == []


SEEN = """
const seen = (s) => [...document.querySelectorAll(s)].filter((e) => e.checkVisibility());
return {
  verdict: seen('.claims').map((e) => e.innerText),
  plots: seen('.trade .plot').map((e) => e.id),
  strips: seen('.strips img').map((e) => e.src),
  checked: seen('.switch label').map((e) => e.querySelector('input').checked),
};
"""


def test_the_switch_governs_verdict_plot_and_samples(opened, like_default):
    from selenium.webdriver.common.keys import Keys

    driver = opened(like_default, 1440, 900)
    first = driver.execute_script(SEEN)
    assert first["plots"] == ["r0-trade-1"] and first["checked"] == [True, False]
    boxes = driver.find_elements("css selector", ".switch input")
    boxes[0].send_keys(Keys.ARROW_RIGHT)
    ready(driver)
    second = driver.execute_script(SEEN)
    assert second["plots"] == ["r0-trade-4"] and second["checked"] == [False, True]
    assert "At 4 NFE" not in first["verdict"][0] and "Verdict at 4 NFE" in second["verdict"][0]
    assert first["verdict"] != second["verdict"] and first["strips"] != second["strips"]
    assert len(second["strips"]) == 1 + len(STUDENTS)
    marks = "return document.querySelectorAll('#r0-trade-4 .point').length"
    assert driver.execute_script(marks) > len(STUDENTS)
    boxes[0].click()
    ready(driver)
    assert driver.execute_script(SEEN) == first
    group = driver.find_element("css selector", ".switch")
    assert group.tag_name == "fieldset" and "Evaluations" in group.text


def test_a_sample_of_the_first_screen_is_enlarged(opened, like_default):
    driver = opened(like_default, 1440, 900)
    driver.find_element("css selector", ".switch input[value='4']").click()
    strip = driver.find_element("css selector", ".glance.on .strips tr:nth-child(2) .strip")
    driver.execute_script(
        "const at = arguments[0].querySelector('img').getBoundingClientRect();"
        "const clientX = at.left + 3.5 * Number(arguments[0].dataset.step);"
        "arguments[0].dispatchEvent(new MouseEvent('click', {detail: 1, clientX, bubbles: true}))",
        strip,
    )
    dialog = driver.find_element("css selector", "dialog.enlarged")
    assert dialog.is_displayed()
    words = driver.execute_script("return document.querySelector('dialog .which').textContent")
    assert words.startswith("Sample 3, label ")
    assert len(dialog.find_elements("css selector", "canvas")) == 2 + len(STUDENTS)
    dialog.find_element("css selector", ".close").click()


def test_what_a_link_leads_to_is_opened(opened, like_default):
    driver = opened(like_default, 1440, 900)
    folded = "return [...document.querySelectorAll('.fold')].filter((d) => d.open).length"
    assert driver.execute_script(folded) == 0
    link = next(
        e for e in driver.find_elements("css selector", ".toc a") if e.text == "Metrics against NFE"
    )
    link.click()
    assert driver.execute_script(folded) == 1
    ready(driver)
    part = driver.find_element("css selector", link.get_attribute("hash"))
    wait(lambda: 0 <= part.rect["y"] - driver.execute_script("return scrollY") < 300)
    marks = part.find_elements("css selector", ".point")
    assert len(marks) > 10, "figures are drawn as they come into sight"
    assert part.find_element("css selector", ".plot").size["width"] > 300
    # By an address, and by its own heading.
    driver = opened(like_default, 1440, 900, anchor="#r0-verdict")
    assert driver.find_element("css selector", "#r0-verdict .cards").is_displayed()
    driver.find_element("css selector", "#r0-verdict summary").click()
    assert not driver.find_element("css selector", "#r0-verdict .cards").is_displayed()
    driver = opened(like_default, 1440, 900, anchor="#r0-at-4")
    assert driver.execute_script(SEEN)["plots"] == ["r0-trade-4"]


def test_contents_stay_and_say_where_one_is(opened, like_default):
    driver = opened(like_default, 1440, 900)
    here = "return [...document.querySelectorAll('.toc [aria-current]')].map((e) => e.textContent)"
    assert driver.execute_script(here) == ["Overview"]
    place = "const b = document.querySelector('.toc a').getBoundingClientRect(); return b.top"
    top = driver.execute_script(place)
    for part, words in (("ranking", "Rankings"), ("provenance", "Provenance")):
        driver.execute_script(
            "document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})",
            f"r0-{part}",
        )
        wait(lambda words=words: driver.execute_script(here) == [words])
        assert driver.execute_script(place) == top


def test_contents_are_a_menu_where_there_is_no_room(opened, like_default):
    driver = opened(like_default, 390, 844)
    button = driver.find_element("css selector", ".toc button")
    listed = driver.find_element("id", "toc-list")
    assert not listed.is_displayed() and button.get_attribute("aria-expanded") == "false"
    button.click()
    assert listed.is_displayed() and button.get_attribute("aria-expanded") == "true"
    next(e for e in listed.find_elements("css selector", "a") if e.text == "Provenance").click()
    assert not listed.is_displayed()
    driver.execute_script("scrollTo({top: 99999, behavior: 'instant'})")
    wait(lambda: driver.execute_script("return scrollY") > 500)
    assert driver.execute_script("return document.querySelector('.toc').getBoundingClientRect().top"
                                 ) == 0  # fmt: skip
    assert button.is_displayed()


def test_a_metric_says_what_it_means(opened, like_default):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    driver = opened(like_default, 390, 844)
    terms = driver.find_elements("css selector", ".glance.on .term")
    assert [t.text for t in terms] == ["FD ↓", "Recall ↑"]
    tip = driver.find_element("css selector", ".tip")
    assert not tip.is_displayed()
    for term, name in zip(terms, ("fd", "recall"), strict=True):
        driver.execute_script("arguments[0].focus()", term)
        assert tip.is_displayed() and tip.text == all_metrics()[name].summary
        described = driver.find_element("id", term.get_attribute("aria-describedby"))
        assert described.get_attribute("textContent") == tip.text
        (box,) = driver.execute_script(BOXES, [".tip"])[".tip"]
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= 390 and box[3] <= 844
        term.send_keys(Keys.ESCAPE)
        assert not tip.is_displayed()
    driver = opened(like_default, 1440, 900)
    head = next(
        h for h in driver.find_elements("css selector", ".rankings thead button")
        if h.text.startswith("Coverage")
    )  # fmt: skip
    driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", head
    )
    ActionChains(driver, duration=0).move_to_element(head).perform()
    tip = driver.find_element("css selector", ".tip")
    wait(lambda: tip.is_displayed())
    assert tip.text.startswith(all_metrics()["coverage"].summary)


def test_without_javascript_every_nfe_is_there(driver, like_default):
    window(driver, 1440, 900)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(like_default.as_uri())
        seen = driver.execute_script(SEEN)
        assert len(seen["verdict"]) == 2 and seen["checked"] == []
        assert len(seen["strips"]) == 2 * (1 + len(STUDENTS))
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        usual(driver)


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """Pages of runs that lack something, by what that is."""
    return cache(lambda case: lacking(tmp_path_factory.mktemp(case), case))


def lacking(folder, case):
    nfes = {"one": (1,), "many": (1, 2, 3, 4, 6, 8, 12, 16)}.get(case, (1, 4))
    synthetic.write(folder, 1, tuple(synthetic.STUDENTS), nfes, failed=False)
    table = pd.read_parquet(folder / "results.parquet")
    if case == "single":
        table = table[(table.role != "student") | (table.variant == "dmd2")]
    elif case == "failed":
        lost = table.role == "student"
        table.loc[lost, ["status", "reason"]] = ["failed", "boom"]
        table.loc[lost, ["value", "ci_low", "ci_high"]] = np.nan
    elif case == "teacher":
        table = table[table.role != "student"]
    elif case == "pictureless":
        (folder / "grids.npz").unlink()
    table.to_parquet(folder / "results.parquet")
    return piflow_reports.build(folder)


@pytest.mark.parametrize("width, height", SIZES)
@pytest.mark.parametrize("case, boxes, words", [
    ("one", 0, "Verdict at 1 NFE"),
    ("many", 8, "piflow-gm8"),
    ("single", 2, "There are no two students"),
    ("failed", 2, "no student has a value"),
    ("teacher", 2, "no student has a value"),
    ("pictureless", 2, "piflow-gm8"),
])  # fmt: skip
def test_runs_that_lack_something(opened, thin, case, boxes, words, width, height):
    driver = opened(thin(case), width, height)
    assert len(driver.find_elements("css selector", ".switch input")) == boxes
    (shown,) = driver.execute_script(SEEN)["verdict"]
    assert words in shown
    strips = driver.find_elements("css selector", ".glance.on .strips tr")
    assert len(strips) == {"single": 2, "teacher": 1, "pictureless": 0}.get(case, 6)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script(CUT) == []
    for box in driver.execute_script(BOXES, [".switch", ".trade .plot"]).values():
        assert all(b[3] <= height and b[2] <= width for b in box), box
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []


def test_runs_side_by_side_have_a_first_screen_each(opened, tmp_path):
    folders = []
    for name, samples in (("a", 1000), ("b", 2000)):
        folder = synthetic.write(tmp_path / name, failed=False)
        table = pd.read_parquet(folder / "results.parquet")
        rules = json.dumps({"samples": samples})
        table.assign(protocol=name, rules=rules).to_parquet(folder / "results.parquet")
        folders.append(folder)
    driver = opened(piflow_reports.build_many(folders), 1440, 900)
    assert driver.execute_script(SEEN)["plots"] == ["r0-trade-1", "r1-trade-1"]
    box = driver.find_element("css selector", "#r1-run .switch input[value='4']")
    driver.execute_script("arguments[0].click()", box)
    ready(driver)
    assert driver.execute_script(SEEN)["plots"] == ["r0-trade-1", "r1-trade-4"]
