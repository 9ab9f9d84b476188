"""The U-Net as a backbone: its shape, features, second time, derivatives, precision, devices."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from piflow_bench import forward_mode
from piflow_bench.contracts.condition import Classes, Unconditional
from piflow_bench.costs.flops import Handle, Meter
from piflow_bench.errors import UserError
from piflow_bench.networks import unet_blocks
from piflow_bench.networks.unet import UNet
from piflow_bench.networks.unet_architecture import Architecture
from piflow_bench.precision import bfloat16
from tests.devices.gpu import gpu, on_gpu

ADM = Architecture(
    channels=2, height=8, width=12, widths=(16, 32), blocks=1, classes=3, attention=(1,),
    head_channels=16,
)  # fmt: skip
DDPMPP = replace(
    ADM, widths=(16, 16, 24), blocks=2, head_channels=None, attention_last=True, adaptive=False,
    skip_scale=math.sqrt(0.5), project_resampled=True, labels_first=True, sines_first=True,
    frequency_shift=1.0,
)  # fmt: skip
KINDS = {
    "ADM": ADM,
    "DDPM++": DDPMPP,
    "NCSN++": replace(DDPMPP, taps=(1, 3, 3, 1), residual_input=True, fourier=True),
    "diffusers": replace(ADM, adaptive=False, resampling="convolution", groups=4, classes=0),
}
ROWS = 3


def made(kind, seed=0, **more):
    """A network no part of which is at its start."""
    torch.manual_seed(seed)
    architecture = KINDS[kind] if isinstance(kind, str) else kind
    network = UNet(architecture, **more)
    network.add_duration()
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    if architecture.fourier:
        network.map_noise.freqs /= 16
    return network


def inputs(architecture, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    shape = (2, ROWS, architecture.channels, *architecture.sides)
    x, v = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    t = torch.tensor([0.9, 0.5, 1.0], dtype=dtype)
    labels = Classes(torch.tensor([0, 3, 1]), 3)
    return x, v, t, labels if architecture.classes else Unconditional(ROWS)


# ------------------------------------------------------------------ a backbone


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_the_hidden_state_read_out(kind):
    network = made(kind)
    x, _, t, c = inputs(network.architecture)
    hidden, embedding = network.trunk(x, t, c, t * 0.3)
    assert hidden.shape == (ROWS, network.dim, *x.shape[2:])
    assert embedding.shape == (ROWS, network.embedding_dim)
    assert network.channels == 2 and network.elements == 1
    out = network(x, t, c, t * 0.3)
    assert torch.equal(out, network.output_layer(hidden))
    assert torch.equal(network.velocity(out[:, None], x, t)[:, 0], out)


def test_a_layer_of_several_outputs():
    network = made("ADM")
    several = nn.Conv2d(network.dim, 3 * 5, 3, padding=1)
    hidden = torch.randn(2, network.dim, 8, 12)
    out = network.project(several, hidden, 3)
    assert out.shape == (2, 3, 5, 8, 12)
    torch.testing.assert_close(out[:, 1], several(hidden)[:, 5:10])


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_layers_and_later_ones_are_not_computed(kind):
    network = made(kind)
    x, _, t, c = inputs(network.architecture)
    maps = []
    blocks = [
        layer
        for part in (network.enc, network.dec)
        for name, layer in part.items()
        if isinstance(layer, unet_blocks.Block) and (part is network.enc or "_in" in name)
    ]
    assert network.depth == len(blocks)
    for block in blocks:
        block.register_forward_hook(lambda layer, given, out: maps.append(out))
    network(x, t, c)
    whole = list(maps)
    assert len(whole) == network.depth
    for depth in range(network.depth + 1):
        maps.clear()
        found = network.features(x, t, c, None, depth)
        assert found.shape == (ROWS, *network.feature_shape(depth))
        assert len(maps) == depth
        if depth and not (kind == "NCSN++" and blocks[depth - 1].way):
            assert torch.equal(found, whole[depth - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_duration_leaves_the_function_unchanged(kind):
    network = UNet(KINDS[kind])
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    x, _, t, c = inputs(network.architecture)
    before = network(x, t, c)
    network.add_duration()
    assert torch.equal(network(x, t, c, duration=t * 0.3), before)
    nn.init.normal_(network.map_duration[1].weight)
    assert not torch.allclose(network(x, t, c, duration=t * 0.3), before)
    assert torch.equal(network(x, t, c), before)


def test_units_of_time():
    network, other = made("DDPM++"), made("DDPM++", time_scale=-2.0, time_offset=3.0)
    x, _, t, c = inputs(network.architecture)
    torch.testing.assert_close(other(x, t, c), network(x, 3 - 2 * t, c))
    torch.testing.assert_close(other.raw(x, t, c), network(x, t, c))
    torch.testing.assert_close(other.raw(x, t, c, t), network(x, t, c, 3 - 2 * t))


@pytest.mark.parametrize("kind", ["ADM", "DDPM++"])
def test_labels(kind):
    network = made(kind)
    x, _, t, c = inputs(network.architecture)
    rows = network(x[:1].expand(4, -1, -1, -1), t[:1].expand(4), Classes(torch.arange(4), 3))
    assert all((rows[i] - rows[j]).abs().max() > 1e-4 for i in range(4) for j in range(i))
    torch.nn.init.zeros_(network.map_label.weight)
    torch.testing.assert_close(network(x, t, c), network(x, t, c.null()))
    own = made(replace(KINDS[kind], null_weights=True))
    before = own(x, t, c.null())
    with torch.no_grad():
        own.map_label.weight[:, 3] += 1
    assert not torch.allclose(own(x, t, c.null()), before)


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match="width=10: a U-Net of 3 levels needs multiples of 4"):
        Architecture(height=8, width=10, widths=(8, 8, 8))
    with pytest.raises(UserError, match="height=6"):
        Architecture(height=6, widths=(8, 8, 8))
    with pytest.raises(UserError, match="16 channels do not make heads of 64 channels"):
        UNet(Architecture(height=8, widths=(16, 16), attention=(1,)))


def test_a_fresh_network_is_zero_and_learns():
    network = UNet(KINDS["ADM"])
    x, v, t, c = inputs(network.architecture)
    assert network(x, t, c).abs().max() == 0
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (network(x, t, c) - v).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_copy_is_a_network_of_its_own():
    network = made("NCSN++")
    x, _, t, c = inputs(network.architecture)
    student = copy.deepcopy(network)
    assert torch.equal(student(x, t, c), network(x, t, c))
    nn.init.zeros_(student.out_conv.weight)
    assert not torch.equal(student(x, t, c), network(x, t, c))


# ------------------------------------------------------------------ maps of another size


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_doubling_is_the_adjoint_of_halving(taps):
    big, small = torch.randn(2, 3, 8, 12).double(), torch.randn(2, 3, 4, 6).double()
    one = (unet_blocks.halve(big, taps) * small).sum()
    other = (big * unet_blocks.double(small, taps)).sum() / 4
    torch.testing.assert_close(one, other)
    constant = torch.ones(1, 1, 8, 8)
    assert unet_blocks.halve(constant, taps)[0, 0, 1, 1] == 1
    assert unet_blocks.double(constant, taps)[0, 0, 4, 4] == 1


def test_the_branch_of_the_input_has_the_maps_size_with_either_filter():
    for taps in ((1, 1), (1, 3, 3, 1)):
        assert unet_blocks.Residual(2, 5, taps)(torch.randn(3, 2, 8, 12)).shape == (3, 5, 4, 6)


# ------------------------------------------------------------------ derivatives and precision


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_equals_finite_differences(kind):
    network = made(kind).double()
    x, v, t, c = inputs(network.architecture, torch.float64)

    def average(x, t):
        return network(x, t, c, duration=t - 0.3)

    with sdpa_kernel(SDPBackend.MATH):
        value, plain = torch.func.jvp(average, (x, t), (v, torch.ones_like(t)))
    fast_value, fast = forward_mode.jvp(average, (x, t), (v, torch.ones_like(t)))
    h = 1e-5
    with torch.no_grad():
        difference = (average(x + h * v, t + h) - average(x - h * v, t - h)) / (2 * h)
        torch.testing.assert_close(fast_value, average(x, t))
    torch.testing.assert_close(fast, difference, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(plain, difference, atol=1e-7, rtol=1e-6)
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_derivative_and_its_value_cost_two_forwards(kind):
    network, meter = made(kind), Meter()
    x, v, t, c = inputs(network.architecture)
    handle = Handle("student", network, meter)
    with sdpa_kernel(SDPBackend.MATH):
        handle(x, t, c, duration=t * 0.3)
    forward_mode.jvp(
        lambda x, t: handle(x, t, c, duration=t - 0.3), (x, t), (v, torch.ones_like(t))
    )
    assert 1.9 <= meter.unit["student/jvp"] / meter.unit["student/grad"] <= 2.2


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_give_the_same_gradients(kind):
    network = made(kind)
    x, _, t, c = inputs(network.architecture)
    calls = []
    first = network.enc[f"{network.architecture.name(0)}_block0"]
    first.register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients():
        network.zero_grad()
        network(x, t, c, t * 0.3).square().sum().backward()
        return {k: p.grad.clone() for k, p in network.named_parameters() if p.grad is not None}

    plain, once = gradients(), len(calls)
    network.checkpointing = True
    recomputed = gradients()
    assert (once, len(calls)) == (1, 3)
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value)
    assert set(plain) == {k for k, _ in network.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16(kind):
    network = made(kind)
    x, v, t, c = inputs(network.architecture)
    exact = network(x, t, c, t * 0.3)
    with bfloat16("cpu"):
        out = network(x, t, c, t * 0.3)
        _, derivative = forward_mode.jvp(
            lambda x, t: network(x, t, c, t - 0.3), (x, t), (v, torch.ones_like(t))
        )
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() < 0.05 * exact.abs().max()
    assert derivative.isfinite().all()
    (out.float() - v).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


# ------------------------------------------------------------------ devices


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_on_the_cpu(kind):
    def work(device):
        network = made(kind).to(device)
        x, v, t, c = inputs(network.architecture)
        x, v, t, c = x.to(device), v.to(device), t.to(device), c.to(device)
        out = network(x, t, c, t * 0.3)
        out.square().sum().backward()
        _, derivative = forward_mode.jvp(
            lambda x, t: network(x, t, c, t - 0.3), (x, t), (v, torch.ones_like(t))
        )
        features = network.features(x, t, c, None, 2)
        found = [out, derivative, features, network.map_layer0.weight.grad]
        assert all(on_gpu(value) == (device == "cuda") for value in found)
        return [value.detach().cpu() for value in found]

    on_cpu = work("cpu")
    with gpu():
        on_cuda = work("cuda")
    for a, b in zip(on_cpu, on_cuda, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_without_values(kind):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        network = UNet(KINDS[kind])
        a = network.architecture
        x, t = torch.empty(ROWS, a.channels, *a.sides), torch.empty(ROWS)
        labels = Classes(torch.zeros(ROWS, dtype=torch.long), 3)
        out = network(x, t, labels if a.classes else Unconditional(ROWS))
    assert out.shape == x.shape and out.device.type == "cuda"
