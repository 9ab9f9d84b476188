"""A plan that is only laid out, and an empty store."""

import pytest

from piflow_bench.config.compose import compose
from piflow_bench.pipeline.plan import make_plan
from tests.pipeline.results.made import store_in


@pytest.fixture(scope="package")
def plan():
    """Of the small experiment: nothing of it is made."""
    (config,) = compose(["profile=smoke", "only=[kd,teacher-euler]", "nfes=[1]"])
    return make_plan(config)


@pytest.fixture
def store(tmp_path):
    return store_in(tmp_path / "store")
