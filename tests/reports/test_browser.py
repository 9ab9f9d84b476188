"""The page in a headless Chromium: it draws, sorts, filters, and asks nobody for anything."""

import base64
import json
import re

import pandas as pd
import piflow_reports
import pytest

from tests.reports import synthetic
from tests.reports.looking import ready, unfold, wait

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(chromium, five_seeds):
    """The page, with all of its figures drawn."""
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=1440, height=900, deviceScaleFactor=1, mobile=False))  # fmt: skip
    chromium.get((five_seeds / "report.html").as_uri())
    unfold(chromium)
    return chromium


def test_no_error_and_no_request(opened):
    assert opened.get_log("browser") == []
    messages = [json.loads(m["message"])["message"] for m in opened.get_log("performance")]
    # The browser's own new-tab page asks for its parts before ours is opened.
    sent = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
        and m["params"]["documentURL"].startswith("file:")
    ]
    assert sent and all(url.startswith(("file:", "data:", "blob:")) for url in sent)


def test_every_figure_has_marks(opened):
    counts = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => [p.id,"
        "p.querySelectorAll('.point path, path.point, path.js-line, .heatmaplayer image').length])"
    )
    assert len(counts) > 10
    assert all(count > 0 for _, count in counts), counts


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_window(opened, width):
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=width, height=900, deviceScaleFactor=1, mobile=False))  # fmt: skip
    wait(lambda: opened.execute_script("return document.documentElement.scrollWidth") <= width)
    wide = (
        "return [...document.querySelectorAll('.plot')].filter(p => p.scrollWidth >"
        "p.clientWidth + 1).map(p => p.id)"
    )
    wait(lambda: opened.execute_script(wide) == [])
    # No label of a figure is cut by the figure's edge.
    cut = (
        "return [...document.querySelectorAll('.plot')].flatMap(p => {"
        "const box = p.getBoundingClientRect();"
        "return [...p.querySelectorAll('svg text')].filter(t => {"
        "const b = t.getBoundingClientRect();"
        "return b.width && (b.right > box.right + 1 || b.left < box.left - 1);"
        "}).map(t => p.id + ': ' + t.textContent)})"
    )
    wait(lambda: opened.execute_script(cut) == [])
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


NAMES = (
    "return [...document.querySelectorAll('.rankings table')[0].querySelectorAll("
    "'tbody.student')[0].querySelectorAll('tr[data-name]')].map(r => r.cells[0].innerText.trim())"
)


def test_sorting_stays_within_a_group(opened):
    heads = opened.find_elements("css selector", ".rankings table thead button")
    fd = next(h for h in heads if h.text.startswith("FD"))
    recall = next(h for h in heads if h.text.startswith("Recall"))
    groups = "return document.querySelectorAll('.rankings table')[0].querySelectorAll('tbody')"
    before = [body.text.splitlines()[0] for body in opened.execute_script(groups)]
    opened.execute_script("arguments[0].click()", fd)
    up = opened.execute_script(NAMES)
    opened.execute_script("arguments[0].click()", fd)
    assert opened.execute_script(NAMES) == up[::-1]
    assert up[0] == "piflow-gm8"
    opened.execute_script("arguments[0].click()", recall)
    assert opened.execute_script(NAMES)[0] == "dmd2"
    after = [body.text.splitlines()[0] for body in opened.execute_script(groups)]
    assert after == before


def test_the_filter_hides_rows_and_empty_groups(opened):
    field = opened.find_element("css selector", ".filter")
    field.send_keys("piflow")
    shown = opened.execute_script(
        "return [...document.querySelectorAll('.rankings tr[data-name]')]"
        ".filter(r => !r.hidden).map(r => r.dataset.name.split(' ')[0])"
    )
    assert set(shown) == {"piflow-gm8", "piflow-dx"}
    assert opened.find_element("css selector", ".count").text.startswith("2 of")
    assert not opened.find_element("css selector", ".rankings tbody.control").is_displayed()
    field.clear()
    opened.execute_script("arguments[0].dispatchEvent(new Event('input'))", field)
    assert opened.find_element("css selector", ".rankings tbody.control").is_displayed()


def test_the_legend_switches_a_variant_everywhere(opened):
    button = opened.find_element("css selector", ".legend button")
    visible = (
        "return [...document.querySelectorAll('.plot')].flatMap(p => p.data)"
        ".filter(t => [t.meta].flat().includes(arguments[0]) && t.visible !== false).length"
    )
    name = button.get_attribute("data-series")
    many = opened.execute_script(visible, name)
    opened.execute_script("arguments[0].click()", button)
    wait(lambda: opened.execute_script(visible, name) == 0)
    opened.execute_script("arguments[0].click()", button)
    wait(lambda: opened.execute_script(visible, name) == many > 5)


def test_a_sample_is_enlarged_in_every_row(opened):
    strip = opened.find_elements("css selector", ".grid button.strip")[1]
    rows = len(strip.find_elements("xpath", "ancestor::tbody/tr"))
    opened.execute_script(
        "const box = arguments[0].querySelector('img').getBoundingClientRect();"
        "const clientX = box.left + box.width * 5.5 / 16;"
        "arguments[0].dispatchEvent(new MouseEvent('click', {detail: 1, clientX, bubbles: true}))",
        strip,
    )
    dialog = opened.find_element("css selector", "dialog.enlarged")
    assert dialog.is_displayed()
    assert len(dialog.find_elements("css selector", "canvas")) == rows > 3
    words = "return document.querySelector('dialog .which').textContent"
    assert opened.execute_script(words).startswith("Sample 5, label ")
    pixels = (
        "const c = document.querySelector('dialog canvas');"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    first = opened.execute_script(pixels)
    assert len(first) == 8 * 8 * 4 and len(set(first)) > 3
    opened.find_element("css selector", "dialog [data-step='1']").click()
    assert opened.execute_script(words).startswith("Sample 6, label ")
    assert opened.execute_script(pixels) != first
    opened.find_element("css selector", "dialog .close").click()
    assert not dialog.is_displayed()


def test_the_switch_hides_published_numbers(opened):
    block = opened.find_element("css selector", ".published-block")
    switch = opened.find_element("css selector", ".published-switch")
    assert block.is_displayed()
    opened.execute_script("arguments[0].click()", switch)
    assert not block.is_displayed()
    opened.execute_script("arguments[0].click()", switch)
    assert block.is_displayed()


def test_command_and_configuration_are_copied(opened):
    opened.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    for button in opened.find_elements("css selector", ".copy"):
        opened.execute_script("window.copied = null; navigator.clipboard.writeText = async (t) =>"
                              "{ window.copied = t; }; arguments[0].closest('details')?."
                              "setAttribute('open', ''); arguments[0].click()", button)  # fmt: skip
        code = button.find_element("xpath", "..").find_element("css selector", "code")
        copied = opened.execute_script("return window.copied")
        assert copied and copied.strip() == code.get_attribute("textContent").strip()


def choose(opened, select, value):
    """Choose an option of a select element as a user's choice does."""
    opened.execute_script(
        "arguments[0].value = arguments[1];"
        "arguments[0].dispatchEvent(new Event('change', {bubbles: true}))", select, value,
    )  # fmt: skip


def shown(opened):
    return set(opened.execute_script(
        "return [...document.querySelectorAll('.rankings tr[data-name]')]"
        ".filter(r => !r.hidden).map(r => r.querySelector('th').textContent.trim())"
    ))  # fmt: skip


def test_rankings_are_narrowed_by_method_family_and_nfe(opened):
    selects = {
        s.get_attribute("data-by"): s for s in opened.find_elements("css selector", ".narrow")
    }
    assert set(selects) == {"method", "family", "nfe", "seed"}
    everything = shown(opened)
    for by in ("method", "family"):
        choose(opened, selects[by], "piflow")
        assert shown(opened) == {"piflow-gm8", "piflow-dx"}
        choose(opened, selects[by], "")
    assert shown(opened) == everything
    blocks = "return [...document.querySelectorAll('.at')].map(b => [b.dataset.nfe, b.hidden])"
    choose(opened, selects["nfe"], "4")
    assert opened.execute_script(blocks) == [["1", True], ["4", False]]
    choose(opened, selects["nfe"], "")
    assert opened.execute_script(blocks) == [["1", False], ["4", False]]


def test_one_train_seed_instead_of_the_mean(opened, five_seeds):
    select = next(
        s for s in opened.find_elements("css selector", ".narrow")
        if s.get_attribute("data-by") == "seed"
    )  # fmt: skip
    cell = opened.execute_script(
        "return [...document.querySelectorAll('.rankings tr[data-name]')].find(r =>"
        "r.querySelector('th').innerText.trim() === 'dmd2').querySelectorAll('td')[1]"
    )
    before = cell.get_attribute("innerHTML")
    table = pd.read_parquet(five_seeds / "results.parquet")
    own = table[(table.variant == "dmd2") & (table.nfe == 1) & (table.metric == "fd")]
    own = own[(own.question == "imitation") & (own.extractor == "classifier")]
    value = own[(own.budget_fraction == 1) & (own.train_seed == 3)].value.iloc[0]
    choose(opened, select, "3")
    assert float(cell.text) == pytest.approx(value, abs=0.06)
    choose(opened, select, "")
    assert cell.get_attribute("innerHTML").replace(' hidden=""', "") == before


def test_axes_are_chosen_from_all_measures(opened):
    figure = opened.find_element("css selector", ".explorer")
    axes = {s.get_attribute("data-axis"): s for s in figure.find_elements("css selector", "select")}
    options = [o.text for o in axes["x"].find_elements("css selector", "option")]
    assert {"Recall (imitation, classifier)", "FD (data, pixels)", "NFE"} <= set(options)
    assert len(options) == 5 * 4 + 4
    plot = "const p = document.querySelector('.explorer .plot'); return "
    title = plot + "[p.layout.xaxis.title.text, p.layout.yaxis.title.text]"
    assert [t.split(" (")[0] for t in opened.execute_script(title)] == ["Recall", "FD"]
    names = plot + "p.data.filter(t => t.meta).map(t => t.meta)"
    points = "return document.querySelectorAll('.explorer .point').length"
    everyone = opened.execute_script(names)
    assert len(everyone) == 6 == opened.execute_script(points)
    rows = "return document.querySelectorAll('.explorer tbody tr').length"
    assert opened.execute_script(rows) == 6
    by_text = {o.text: o.get_attribute("value")
               for o in axes["x"].find_elements("css selector", "option")}  # fmt: skip
    choose(opened, axes["x"], by_text["Precision (data, pixels)"])
    assert opened.execute_script(title)[0] == "Precision (data, pixels) ↑"
    choose(opened, axes["nfe"], "")
    # One variant failed at 4 NFE.
    assert opened.execute_script(points) == 11 == opened.execute_script(rows)
    front = plot + "p.data.filter(t => !t.meta).length"
    assert opened.execute_script(front) == 0
    choose(opened, axes["nfe"], "1")
    choose(opened, axes["x"], by_text["Precision (imitation, classifier)"])
    choose(opened, axes["y"], by_text["Recall (imitation, classifier)"])
    assert opened.execute_script(front) == 1
    errors = [e for e in opened.get_log("browser") if e["level"] == "SEVERE"]
    assert errors == []


def test_samples_of_one_label(opened):
    select = opened.find_element("css selector", ".label-filter")
    choose(opened, select, "3")
    table = opened.find_element("css selector", "table.grid[data-labels]")
    labels = json.loads(table.get_attribute("data-labels"))
    canvases = table.find_elements("css selector", "button.strip canvas")
    assert len(canvases) == len(table.find_elements("css selector", "tbody tr")) > 3
    wanted = labels.count("3")
    widths = [opened.execute_script("return arguments[0].width", c) for c in canvases]
    assert set(widths) == {wanted * 9 - 1}
    header = [s.text for s in table.find_elements("css selector", ".labels > span") if s.text]
    assert header == ["3"] * wanted
    opened.execute_script(
        "const box = arguments[0].getBoundingClientRect();"
        "arguments[0].dispatchEvent(new MouseEvent('click', {detail: 1, bubbles: true,"
        "clientX: box.left + box.width * 0.9}))", canvases[1],
    )  # fmt: skip
    words = opened.execute_script("return document.querySelector('dialog .which').textContent")
    last = max(i for i, label in enumerate(labels) if label == "3")
    assert words == f"Sample {last}, label 3"
    opened.find_element("css selector", "dialog .close").click()
    choose(opened, select, "")
    assert not table.find_elements("css selector", "button.strip canvas")
    assert table.find_element("css selector", "button.strip img").is_displayed()


def ink(opened):
    """Colours of the page's ground and of its text."""
    return opened.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )


def brightness(colour):
    return sum(int(v) for v in colour.removeprefix("rgb(").removesuffix(")").split(",")[:3])


def test_dark_mode_is_dark_and_figures_stay_readable(opened):
    light = ink(opened)
    assert brightness(light[0]) > 600 > 300 > brightness(light[1])
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        dark = ink(opened)
        assert brightness(dark[0]) < 200 < 500 < brightness(dark[1])
        text = opened.execute_script(
            "return getComputedStyle(document.querySelector('.plot .xtick text')).fill"
        )
        assert brightness(text) > 450
        ground = opened.execute_script(
            "return getComputedStyle(document.querySelector('.plot .main-svg')).backgroundColor"
        )
        assert ground in ("rgba(0, 0, 0, 0)", "transparent")
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


FIRST_WIDTH = "return document.querySelector('.plot .main-svg').getBoundingClientRect().width"


def test_the_printed_page_holds_every_figure_and_what_is_folded(opened, five_seeds):
    opened.get((five_seeds / "report.html").as_uri())
    ready(opened)
    folded = opened.execute_script("return document.querySelectorAll('.plot:not([data-drawn])')")
    assert len(folded) > 20, "what is folded waits"
    unfolded = "return document.querySelectorAll('details[open]').length"
    before = opened.execute_script(unfolded)
    script = "return document.querySelectorAll('.plot .main-svg').length"
    screen = opened.execute_script(FIRST_WIDTH)
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    content = base64.b64decode(printed["data"])
    assert content.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 5 < pages < 120
    # The event that printing sends opened what was folded, and closed it again.
    assert opened.execute_script(unfolded) == before < 3
    assert opened.execute_script(script) > 20
    both = "return [...document.querySelectorAll('.glance')].filter(g => g.offsetHeight).length"
    assert opened.execute_script(both) == 1
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    try:
        hidden = "return getComputedStyle(document.querySelector(arguments[0])).display"
        for selector in (".toc", ".tools", ".copy", ".switch"):
            assert opened.execute_script(hidden, selector) == "none"
        assert opened.execute_script(both) == 2
        heads = "return [...document.querySelectorAll('.claims h2')].map(h => h.offsetHeight > 9)"
        assert opened.execute_script(heads) == [True, True], "each says which NFE it is of"
        wide = opened.execute_script(
            "document.documentElement.style.width = '190mm';"
            "return [...document.querySelectorAll('.plot, .cards, .facts')]"
            ".filter(p => p.getBoundingClientRect().right >"
            "document.documentElement.getBoundingClientRect().right + 1).map(p => p.className)"
        )
        assert wide == []
        cut = opened.execute_script(
            "return [...document.querySelectorAll('.plot')].filter(p => {"
            "const right = p.closest('figure').getBoundingClientRect().right;"
            "return [...p.querySelectorAll('.main-svg')].some(s =>"
            "s.getBoundingClientRect().right > right)}).map(p => p.id)"
        )
        assert cut == []
        tables = opened.execute_script(
            "return [...document.querySelectorAll('table.ranking')].filter(t =>"
            "t.getBoundingClientRect().right > 1 + t.parentElement.getBoundingClientRect().right)"
            ".length"
        )
        assert tables == 0
    finally:
        opened.execute_script("document.documentElement.style.width = ''")
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        opened.execute_script("window.dispatchEvent(new Event('afterprint'))")
    wait(lambda: opened.execute_script(FIRST_WIDTH) == screen)


def test_a_double_click_shows_what_is_beyond_the_axes(driver, tmp_path, monkeypatch):
    from selenium.webdriver.common.action_chains import ActionChains

    close = {name: (*synthetic.STUDENTS[name][:3], 0.82) for name in ("piflow-gm8", "dmd2")}
    monkeypatch.setattr(synthetic, "STUDENTS", close)
    folder = synthetic.write(tmp_path, 1, tuple(close), failed=False)
    driver.get(piflow_reports.build(folder).as_uri())
    ready(driver)
    plot = driver.find_element("css selector", "#r0-trade-1")
    caption = plot.find_element("xpath", "../figcaption").text
    assert "Beyond the axes, in whole or part: teacher-euler" in caption
    ends = "return document.getElementById('r0-trade-1').layout.xaxis.range"
    low, high = driver.execute_script(ends)
    teacher = pd.read_parquet(folder / "results.parquet").query(
        "variant == 'teacher-euler' and metric == 'recall' and nfe == 1 and question == 'imitation'"
        " and extractor == 'classifier'"
    )["value"].iloc[0]  # fmt: skip
    assert teacher < low
    ground = plot.find_element("css selector", ".nsewdrag")
    driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", ground
    )
    ActionChains(driver, duration=0).move_to_element(ground).double_click().perform()
    wait(lambda: driver.execute_script(ends)[0] < teacher)
