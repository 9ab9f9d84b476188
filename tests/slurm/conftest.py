"""One cluster for all tests of this folder; they skip, with the reason, where none can be had."""

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running one-node Slurm."""
    reason = missing()
    if reason:
        pytest.skip(f"slurm: {reason}")
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    made.start()
    yield made
    made.stop()
