"""Fixtures: synthetic runs, and one page that several tests read."""

import piflow_reports
import pytest

from tests.reports import browser, synthetic


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
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not browser.CHROMIUM or not browser.DRIVER:
        pytest.skip("chromium is not installed: apt install chromium chromium-driver")
    driver = browser.start(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def driver(chromium):
    """A headless Chromium; a page that is left open goes on: a live one loads itself again."""
    yield chromium
    chromium.get("about:blank")
