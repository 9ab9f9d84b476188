"""axe-core on a page in the tests' browser."""

import importlib.util
import time
from pathlib import Path

RUN = """
const done = arguments[0];
axe.run(document, {resultTypes: ['violations']}).then(found => done(found.violations.map(v => [
  v.impact, v.id, v.help, v.nodes.slice(0, 4).map(n => n.html.slice(0, 160))
])), error => done([['critical', 'axe', String(error), []]]));
"""


def source():
    """axe-core's source, which a package of the test extra holds."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None and found.origin, "axe-playwright-python is not installed"
    return (Path(found.origin).parent / "axe.min.js").read_text("utf-8")


def serious(driver, page, width, scheme):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(
        width=width, height=900, deviceScaleFactor=1, mobile=False))  # fmt: skip
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        driver.get(page.as_uri())
        deadline = time.monotonic() + 60
        while not driver.execute_script("return document.body.dataset.ready || ''"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        driver.execute_script(source())
        driver.set_script_timeout(120)
        found = driver.execute_async_script(RUN)
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    print([v[:3] for v in found])
    return [v for v in found if v[0] in ("serious", "critical")]
