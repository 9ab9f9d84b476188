"""GM and DX heads on the DiT against the official numbers, and their initialisation."""

import torch
from piflow_methods.piflow.heads import DXNetwork, GMNetwork

from tests.networks.test_dit import DATA, close, golden, inputs, official  # noqa: F401


def load(network, tensors, prefix):
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    network.load_state_dict(network.from_published(state))
    return set(state)


@torch.no_grad()
def test_gm_head_equals_the_official_one(golden):  # noqa: F811
    tensors, facts = golden
    backbone = official(golden)
    own = {k: v.clone() for k, v in backbone.output_layer.state_dict().items()}
    network = GMNetwork(backbone, facts["num_gaussians"], inner=facts["logstd_inner_dim"])
    loaded = load(network, tensors, "gm_student.")
    assert {
        "proj_out_means.weight",
        "proj_out_logstds.3.bias",
        "proj_out_logweights.bias",
    } <= loaded
    out = network(*inputs(golden))
    for name, value in out.items():
        close(value, tensors[f"gm_out.{name}"])
    for name, value in backbone.output_layer.state_dict().items():
        assert torch.equal(value, own[name]), "the backbone keeps its own output layer"


@torch.no_grad()
def test_gm_initialisation(golden):  # noqa: F811
    tensors, facts = golden
    backbone = official(golden)
    k, elements = facts["num_gaussians"], backbone.elements
    layer = backbone.proj_out_2
    network = GMNetwork(backbone, k, inner=facts["logstd_inner_dim"])
    assert torch.equal(network.proj_out_means.weight, tensors["gm_init.proj_out_means.weight"])
    bias = network.proj_out_means.bias.reshape(elements, k, -1)
    jitter = bias - layer.bias.reshape(elements, 1, -1)
    assert (jitter - jitter[:1]).abs().max() < 1e-6, "the noise is shared over a token's elements"
    assert 0.02 < jitter.std() < 0.1
    official_bias = tensors["gm_init.proj_out_means.bias"].reshape(elements, k, -1)
    assert ((bias - official_bias).mean(1).abs() < 0.15 * 2 / k**0.5).all()
    for name in (
        "proj_out_logweights.weight",
        "proj_out_logweights.bias",
        "proj_out_logstds.3.weight",
        "proj_out_logstds.3.bias",
    ):
        ours = network.get_parameter(name)
        assert torch.allclose(ours, tensors[f"gm_init.{name}"]), name


@torch.no_grad()
def test_dx_head_equals_the_official_one(golden):  # noqa: F811
    tensors, facts = golden
    network = DXNetwork(official(golden), facts["n_grid"])
    assert torch.equal(network.proj_out_2.weight, tensors["dx_init.proj_out_2.weight"])
    assert torch.equal(network.proj_out_2.bias, tensors["dx_init.proj_out_2.bias"])
    load(network, tensors, "dx_student.")
    close(network(*inputs(golden))["output"], tensors["dx_out.u"])


@torch.no_grad()
def test_polynomial_starts_as_the_teachers_constant(golden):  # noqa: F811
    backbone = official(golden)
    expected = backbone(*inputs(golden))
    network = DXNetwork(backbone, 4, polynomial=True)
    out = network(*inputs(golden))["output"]
    assert torch.allclose(out[:, 0], expected, atol=1e-6)
    assert (out[:, 1:] == 0).all()
