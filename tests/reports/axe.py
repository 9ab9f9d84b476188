"""axe-core on a page in the tests' browser."""

import importlib.util
from pathlib import Path

from tests.reports.looking import unfold, usual, window

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
    window(driver, width, scheme=scheme)
    try:
        driver.get(page.as_uri())
        unfold(driver)
        driver.execute_script(source())
        driver.set_script_timeout(120)
        found = driver.execute_async_script(RUN)
    finally:
        usual(driver)
    print([v[:3] for v in found])
    return [v for v in found if v[0] in ("serious", "critical")]
