"""Looking at a page in the tests' browser: wait until it is drawn, unfold it, shape its window."""

import time

DRAWN = """
return document.body.dataset.ready && [...document.querySelectorAll('.plot')].every(p =>
  p.dataset.drawn || p.closest('details:not([open]), .glance:not(.on)'))
"""


def wait(true, seconds=20):
    """Until it is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def ready(driver):
    """Until all that is in sight, unfolded, is drawn."""
    wait(lambda: driver.execute_script(DRAWN), 60)


def unfold(driver):
    """Every part open, and every NFE's first screen drawn; the first one is shown at the end."""
    ready(driver)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    ready(driver)
    boxes = driver.execute_script("return document.querySelectorAll('.switch input').length")
    for i in [*range(1, boxes), *range(min(boxes, 1))]:
        driver.execute_script("document.querySelectorAll('.switch input')[arguments[0]].click()", i)
        ready(driver)


def window(driver, width, height=900, scheme="light"):
    """A window of this inner size, light or dark."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=width, height=height, deviceScaleFactor=1, mobile=False))  # fmt: skip
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def usual(driver):
    """The window as it was."""
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
