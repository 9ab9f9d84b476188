"""Fixtures: synthetic runs, and one page that several tests read."""

import shutil

import piflow_reports
import pytest

from tests.reports import synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="session")
def five_seeds(tmp_path_factory):
    """A run with 5 train seeds, its page built."""
    folder = synthetic.write(tmp_path_factory.mktemp("five"), seeds=5)
    piflow_reports.build(folder)
    return folder


@pytest.fixture(scope="session")
def one_seed(tmp_path_factory):
    """A run with 1 train seed, its page built."""
    folder = synthetic.write(tmp_path_factory.mktemp("one"), seeds=1)
    piflow_reports.build(folder)
    return folder


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not CHROMIUM or not DRIVER:
        pytest.skip("chromium is not installed: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage",
        # A machine without a mouse is taken for a phone, on which figures have no toolbar.
        "--blink-settings=primaryHoverType=2,availableHoverTypes=2",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def driver(chromium):
    """A headless Chromium; a page that is left open goes on: a live one loads itself again."""
    yield chromium
    chromium.get("about:blank")
