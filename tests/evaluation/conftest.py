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
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.manual_seed(0)

    class Fresh(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            return None

    empty = path.with_name("empty.pth")
    torch.save({}, empty)
    network = Fresh("fresh", ["2048"], str(empty))
    for name, value in network.state_dict().items():
        if value.ndim == 4:  # So that what tells images apart survives to the last layer.
            torch.nn.init.kaiming_normal_(value)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif name.endswith("bn.weight"):
            value.uniform_(0.9, 1.1)
        elif value.is_floating_point():
            value.normal_(0, 0.1)
    torch.save(network.state_dict(), path)
    return path
