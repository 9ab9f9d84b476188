"""A headless Chromium for the pages."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium import webdriver

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")


def start(profile: Path) -> webdriver.Chrome:
    """Start it, with an empty folder for its profile; its caller quits it."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage",
        # A machine without a mouse is taken for a phone, on which figures have no toolbar.
        "--blink-settings=primaryHoverType=2,availableHoverTypes=2",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def wait_for_figures(driver: webdriver.Chrome, seconds: float = 120) -> None:
    """Return once a page's figures are drawn."""
    deadline = time.monotonic() + seconds
    while not driver.execute_script("return document.body.dataset.ready || ''"):
        assert time.monotonic() < deadline, "the figures were not drawn"
        time.sleep(0.2)
