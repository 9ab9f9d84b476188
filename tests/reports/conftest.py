"""Fixtures: synthetic runs, and one page that several tests read."""

import piflow_reports
import pytest

from tests.reports import synthetic


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
