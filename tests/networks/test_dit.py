"""The DiT against the official implementation's numbers (tests/data/dit.*)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from piflow_bench.contracts.condition import Classes
from piflow_bench.networks import dit
from piflow_bench.networks.dit import DiT

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def golden():
    return load_file(DATA / "dit.safetensors"), json.loads((DATA / "dit.json").read_text())


def official(golden, time_scale=1000.0):
    tensors, facts = golden
    network = DiT(
        channels=facts["in_channels"],
        height=facts["sample_size"],
        dim=facts["num_attention_heads"] * facts["attention_head_dim"],
        depth=facts["num_layers"],
        heads=facts["num_attention_heads"],
        classes=facts["num_embeds_ada_norm"],
        time_scale=time_scale,
    )
    state = {k.removeprefix("teacher."): v for k, v in tensors.items() if k.startswith("teacher.")}
    network.load_state_dict(state, strict=True)
    return network


def inputs(golden):
    tensors, facts = golden
    classes = Classes(tensors["class_labels"], facts["num_embeds_ada_norm"])
    return tensors["x"], tensors["timestep"] / 1000, classes


def close(actual, expected, tolerance=2e-5):
    assert ((actual - expected).abs() <= tolerance * (1 + expected.abs())).all()


@torch.no_grad()
def test_velocity_equals_the_official_network(golden):
    close(official(golden)(*inputs(golden)), golden[0]["teacher_out.u"])


@torch.no_grad()
def test_time_unit_is_the_networks_own(golden):
    x, t, c = inputs(golden)
    close(official(golden, time_scale=1.0)(x, t * 1000, c), golden[0]["teacher_out.u"])


@torch.no_grad()
def test_duration_input_leaves_the_function_unchanged(golden):
    network = official(golden)
    x, t, c = inputs(golden)
    before = network(x, t, c)
    network.add_duration()
    assert torch.equal(network(x, t, c, duration=torch.rand(3)), before)
    torch.nn.init.normal_(network.emb.duration_embedder.linear_2.weight)
    assert not torch.allclose(network(x, t, c, duration=torch.rand(3)), before)


def test_images_need_not_be_square():
    network = DiT(channels=2, height=4, width=8, dim=16, depth=1, heads=2, classes=3)
    x = torch.randn(2, 2, 4, 8)
    assert network(x, torch.rand(2), Classes(torch.tensor([0, 3]), 3)).shape == x.shape
    flat = network.pos_embed(x)
    assert flat.shape == (2, 8, 16)


def test_jvp_equals_finite_difference():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.manual_seed(0)
    network = DiT(channels=1, height=4, dim=16, depth=2, heads=2, classes=3).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    c = Classes(torch.tensor([0, 1]), 3)
    x, v, t = (
        torch.randn(2, 1, 4, 4).double(),
        torch.randn(2, 1, 4, 4).double(),
        torch.rand(2).double(),
    )
    with sdpa_kernel(SDPBackend.MATH):
        _, d = torch.func.jvp(lambda x, t: network(x, t, c), (x, t), (v, torch.ones_like(t)))
    h = 1e-3
    difference = (network(x + h * v, t + h, c) - network(x - h * v, t - h, c)) / (2 * h)
    assert (d - difference).abs().max() < 1e-3 * (1 + d.abs().max())


def test_gelu_in_place_is_gelu_with_the_same_forward_mode_derivative():
    layer = dit._GeluProjection(8, 3000)  # Two parts and a rest.
    x, v = torch.randn(2, 5, 9, 8)
    with torch.no_grad():
        out, tangent = torch.func.jvp(layer, (x,), (v,))
        plain = layer(x)
    out_, tangent_ = torch.func.jvp(layer, (x,), (v,))
    assert torch.equal(out, plain) and not torch.equal(out, out_)
    torch.testing.assert_close(out, out_.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(tangent, tangent_.detach(), rtol=0, atol=1e-6)
