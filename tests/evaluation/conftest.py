"""Golden features and the values that trusted tools give on them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def golden():
    """Features ``gen``, ``ref``, ``gen_logits`` and the dictionary ``values``."""
    tensors = load_file(DATA / "metrics.safetensors")
    return SimpleNamespace(**tensors, values=json.loads((DATA / "metrics.json").read_text()))


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A random Inception as torch-fidelity stores it."""
    import torch

    from piflow_bench.preparation.stand_ins import inception

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inception(path)
    return path
