"""The derivative of a network along a direction: its value, its precision and its price."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from piflow_bench import forward_mode
from piflow_bench.api import Classes, Context, Teacher, TrainingRandom
from piflow_bench.costs.flops import Handle, Meter
from piflow_bench.data import digits
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.mlp import MLP
from tests.world import world

ROWS = 3
BACKBONES = {
    "digits": (digits.teacher_network, (1, 8, 8)),
    "points": (lambda: common_start("mixture2d"), (2,)),
    "MLP": (MLP, (2,)),
    "smoke": (lambda: DiT(channels=4, height=8, dim=48, depth=2, heads=4, classes=10), (4, 8, 8)),
    "XL": (lambda: DiT(channels=4, height=8, dim=192, depth=3, classes=1000), (4, 8, 8)),
    "DiT's time": (
        lambda: DiT(4, 8, dim=128, depth=2, heads=2, time_scale=1000.0),
        (4, 8, 8),
    ),
    "checkpointed": (lambda: recomputed(digits.teacher_network()), (1, 8, 8)),
}


def common_start(dataset):
    """The network that students of a closed form start from."""
    runtime = world(dataset)
    return runtime.teacher_plugin().fresh_network(runtime.dataset())


def recomputed(network):
    network.checkpointing = True
    return network


def made(build):
    """A network no part of which is at its start."""
    torch.manual_seed(0)
    network = build()
    network.add_duration()
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    return network


def point(shape, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    x, v = torch.randn(2, ROWS, *shape, generator=g, dtype=torch.float64).to(dtype)
    t = torch.tensor([0.9, 0.5, 1.0], dtype=dtype)
    return x, v, t, t * 0.3, Classes(torch.tensor([0, 2, 1]), 3)


def context(networks):
    random = TrainingRandom(0, 0, 0, ROWS)
    teacher = Teacher(lambda x, t, c: x, nn.Linear(1, 1), closed_form=True)
    return Context(0, 0.0, random, teacher, networks, {})


def average(network, r, condition):
    return lambda x, t: network(x, t, condition, duration=t - r)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_derivative_and_its_value_cost_two_forwards(name):
    build, shape = BACKBONES[name]
    x, v, t, r, condition = point(shape)
    meter = Meter()
    network = made(build)
    handle = Handle("student", network, meter)
    handle(x, t, condition, duration=t - r)
    context({}).jvp(average(handle, r, condition), (x, t), (v, torch.ones_like(t)))
    assert 1.9 <= meter.unit["student/jvp"] / meter.unit["student/grad"] <= 2.2
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as one:
        network(x, t, condition, duration=t - r)
    # The fused kernel's products are not counted on a CPU; the math kernel's are.
    assert meter.unit["student/jvp"] * ROWS <= 2.2 * one.get_total_flops()


@pytest.mark.parametrize("name", BACKBONES)
def test_a_derivative_is_float32_in_a_bfloat16_run(name):
    build, shape = BACKBONES[name]
    network = made(build)
    x, v, t, r, condition = point(shape)
    handle = Handle("student", network, Meter())
    with torch.autocast("cpu", torch.bfloat16):
        value, slope = context({}).jvp(
            average(handle, r, condition), (x, t), (v.bfloat16(), torch.ones_like(t))
        )
        rough = context({}).jvp(
            average(handle, r, condition), (x, t), (v, torch.ones_like(t)), "bfloat16"
        )[1]
        assert torch.is_autocast_enabled("cpu")
    assert slope.dtype == value.dtype == torch.float32
    network.double()
    x, v, t, r, condition = point(shape, torch.float64)
    v = v.bfloat16().double()
    with sdpa_kernel(SDPBackend.MATH):
        exact_value, exact = torch.func.jvp(
            average(network, r, condition), (x, t), (v, torch.ones_like(t))
        )
    # With time in 0..1000 the sinusoids' arguments alone are rounded by 3e-5.
    assert (value - exact_value).norm() < 1e-4 * exact_value.norm()
    assert (slope - exact).norm() < 1e-3 * exact.norm()
    assert 1e-3 * exact.norm() < (rough - exact).norm() < 0.2 * exact.norm()


class UNet(nn.Module):
    """A user's network: convolutions, attention by torch's own layer, products of its own."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Conv2d(2, 8, 3, padding="same")
        self.down = nn.Conv2d(8, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose2d(8, 2, 2, stride=2)
        self.time = nn.Linear(1, 8)
        self.mix = nn.Parameter(torch.eye(8))
        self.constant = nn.Linear(8, 8)

    def forward(self, x, t):
        shift = self.time(t[:, None]) @ self.mix + self.constant(self.mix[:1])
        h = functional.silu(self.inside(x) + shift[:, :, None, None])
        h = self.down(h)
        tokens = h.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)  # Both factors move.
        h = torch.matmul(weights, tokens).transpose(1, 2).reshape(h.shape)
        return self.up(h)


class HyperNetwork(nn.Module):
    """A user's network whose weights and biases depend on time."""

    def __init__(self):
        super().__init__()
        self.weights, self.bias = nn.Linear(1, 9 * 4), nn.Linear(1, 2)

    def forward(self, x, t):
        moved = self.weights(t[:1, None])
        kernel, bias = moved.reshape(2, 2, 3, 3), self.bias(t[:1, None])[0]
        h = functional.conv2d(input=x, weight=kernel, bias=bias, padding=1)
        return functional.linear(h, moved[0, :16].reshape(4, 4), bias.repeat(2))


class Energy(nn.Module):
    """A user's network that is the gradient of another."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 8)

    def forward(self, x, t):
        def energy(x):
            return (self.inner(x).tanh().sum(1).sum((1, 2)) * t).sum()

        with torch.enable_grad():
            return torch.func.grad(energy)(x)


@pytest.mark.parametrize("build", [UNet, HyperNetwork, Energy])
def test_any_network_has_torchs_derivative(build):
    torch.manual_seed(0)
    network = build().double()
    g = torch.Generator().manual_seed(1)
    x, v = torch.randn(2, ROWS, 2, 4, 4, generator=g, dtype=torch.float64)
    t, dt = torch.rand(ROWS, generator=g).double(), torch.tensor([1.0, -0.5, 2.0]).double()
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.func.jvp(network, (x, t), (v, dt))
    found = forward_mode.jvp(network, (x, t), (v, dt))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 1e-12 * (1 + b.abs().max())
    assert found[1].abs().max() > 0.01 and not found[1].requires_grad


def test_inputs_without_a_tangent_have_no_derivative():
    network = nn.Linear(2, 2)
    x = torch.randn(3, 2)
    value, slope = forward_mode.jvp(lambda x, t: network(x), (x, x), (torch.zeros_like(x), x))
    assert torch.equal(slope, torch.zeros_like(x)) and torch.allclose(value, network(x))
    constant = forward_mode.jvp(lambda t: network(x), (x,), (x,))[1]
    assert torch.equal(constant, torch.zeros_like(x))


def test_ordinary_products_are_untouched_after_and_before():
    x = torch.randn(3, 2, requires_grad=True)
    network = nn.Linear(2, 2)
    forward_mode.jvp(network, (x,), (x,))
    network(x).sum().backward()
    assert torch.allclose(x.grad, network.weight.sum(0).expand(3, 2))
