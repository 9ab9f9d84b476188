"""The page in a headless Chromium: it draws, sorts, filters, and asks nobody for anything."""

import json
import time

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def opened(driver, five_seeds):
    """The page, with all of its figures drawn."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=1440, height=900, deviceScaleFactor=1, mobile=False))  # fmt: skip
    driver.get((five_seeds / "report.html").as_uri())
    deadline = time.monotonic() + 60
    while not driver.execute_script("return document.body.dataset.ready || ''"):
        assert time.monotonic() < deadline, "the figures were not drawn"
        time.sleep(0.1)
    return driver


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
    time.sleep(0.5)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    wide = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].filter(p => p.scrollWidth >"
        "p.clientWidth + 1).map(p => p.id)"
    )
    assert wide == []
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
        ".filter(t => t.meta === arguments[0] && t.visible !== false).length"
    )
    name = button.get_attribute("data-series")
    many = opened.execute_script(visible, name)
    opened.execute_script("arguments[0].click()", button)
    assert many > 5 and opened.execute_script(visible, name) == 0
    opened.execute_script("arguments[0].click()", button)
    assert opened.execute_script(visible, name) == many


def test_a_sample_is_enlarged_in_every_row(opened):
    strip = opened.find_elements("css selector", "button.strip")[1]
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
