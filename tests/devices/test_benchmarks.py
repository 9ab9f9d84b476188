"""The benchmarks that wait for a GPU run on one that is not there, at sizes of no meaning."""

import pytest
import torch
from piflow_methods.piflow import fused
from piflow_methods.piflow.policies import GMPolicy

from piflow_bench.evaluation.extractors.extractor import get_extractor
from piflow_bench.networks.dit import DiT
from tests.benchmarks import extraction, imagenet, rollout
from tests.devices.gpu import gpu


class Small(imagenet.Machine):
    side = 4

    def network(self):
        return DiT(height=4, dim=16, depth=1, heads=2)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Rollouts in torch's operations: Triton's interpreter would take minutes."""
    monkeypatch.setattr(fused, "available", lambda policy, x: False)
    with gpu():
        yield


def test_training_and_sampling():
    machine = Small("cuda", 2, 1e12, 1)
    trained = imagenet.training("kd", machine)
    assert set(trained) >= {"images/s", "peak GiB", "share of peak FLOP/s", "TFE per image"}
    drawn = imagenet.sampling("kd", machine, lambda latents: latents)
    assert set(drawn) >= {"images/s", "images/s, decoded", "latency of 1, ms"}


def test_rollouts():
    policy, path = rollout.case(1, 2, 2, 4, "cuda")

    def both():
        GMPolicy(*rollout._parts(policy)).rollout(*path, 2, use_fused=False).sum().backward()

    assert rollout.seconds(both, True, 1) > 0 and policy.means.grad is not None


def test_extraction(monkeypatch):
    monkeypatch.setattr(extraction, "SIDE", 8)
    found = extraction.measured(get_extractor("digits", None, "cuda"), 3, 1, 1e12)
    assert set(found) >= {"images/s, network", "images/s, from pictures", "peak GiB"}
    assert found["GFLOP an image"] > 0
    assert torch.isfinite(torch.tensor(list(found.values()))).all()
