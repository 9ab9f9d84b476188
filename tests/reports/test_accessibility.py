"""The pages under axe-core: no serious violation, light and dark, wide and narrow."""

import piflow_reports
import pytest

from tests.reports import synthetic
from tests.reports.axe import serious
from tests.reports.looking import unfold

pytestmark = pytest.mark.browser
LOOKS = [pytest.param(1440, "light", marks=pytest.mark.thorough), (390, "dark")]


@pytest.mark.parametrize("width, scheme", LOOKS)
def test_the_report(driver, five_seeds, width, scheme):
    assert serious(driver, five_seeds / "report.html", width, scheme) == []


@pytest.mark.parametrize("width, scheme", [(1440, "dark")])
def test_a_page_of_points_with_one_seed(driver, tmp_path, width, scheme):
    folder = synthetic.write(tmp_path, points=True)
    assert serious(driver, piflow_reports.build(folder), width, scheme) == []


def test_every_figure_has_words_and_numbers(driver, five_seeds):
    driver.get((five_seeds / "report.html").as_uri())
    unfold(driver)  # The explorer's numbers are written as it is drawn.
    bare = driver.execute_script(
        "return [...document.querySelectorAll('.plot')].filter(p =>"
        "p.getAttribute('role') !== 'group' || !p.getAttribute('aria-label')"
        "|| !p.closest('figure').querySelector('td'))"
        ".map(p => p.id)"
    )
    assert bare == []
    assert driver.execute_script("return document.querySelectorAll('.plot').length") > 20
    assert driver.execute_script("return [...document.images].filter(i => !i.alt).length") == 0
