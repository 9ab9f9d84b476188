"""A network of another process as a backbone: velocity, heads, features, duration, slope."""

import pytest
import torch
from piflow_methods.piflow.heads import DXNetwork, GMNetwork

from piflow_bench import forward_mode
from piflow_bench.contracts.backbone import PARTS, lacking
from piflow_bench.contracts.condition import Classes
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.unet import UNet
from piflow_bench.networks.unet_architecture import Architecture
from piflow_bench.teachers.converted import Converted
from piflow_bench.teachers.parametrisation import coefficients, velocity_field
from piflow_bench.teachers.schedules import EDM, VP, Flow

CASES = {
    "flow, velocity": (Flow(), "velocity"),
    "flow of 1000, velocity": (Flow(1000.0), "velocity"),
    "flow reversed": (Flow(reverse=True), "reversed_velocity"),
    "flow, data": (Flow(), "x0"),
    "DDPM, noise": (VP(), "eps"),
    "cosine, v": (VP("cosine"), "v"),
    "Stable Diffusion, data": (VP("scaled_linear", 0.00085, 0.012), "x0"),
    "EDM": (EDM(), "edm"),
    "EDM, noise": (EDM(), "eps"),
}
CLASSES, ROWS = 3, 6


def randomised(network):
    """No part of it at its (often zero) start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def dit():
    return randomised(DiT(2, 8, 4, dim=16, depth=2, heads=2, patch=2, classes=CLASSES))


def unet():
    return randomised(
        UNet(Architecture(2, 8, 4, (8, 16), 1, CLASSES, attention=(1,), head_channels=8, groups=4))
    )


NETWORKS = {"DiT": dit, "U-Net": unet}
pytestmark = pytest.mark.parametrize("kind", NETWORKS)
cases = pytest.mark.parametrize("name", CASES)


def inputs():
    """Rows at both ends of time and between; the last of no class."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 2, 8, 4, generator=generator)
    t = torch.tensor([0.0, 0.02, 0.3, 0.6, 0.97, 1.0])
    return x, t, Classes(torch.tensor([0, 1, 2, 0, 1, CLASSES]), CLASSES)


@torch.no_grad()
@cases
def test_its_velocity_is_that_of_the_parametrisation(kind, name):
    network = NETWORKS[kind]()
    schedule, prediction = CASES[name]
    expected = velocity_field(network, schedule, prediction)(*inputs())
    found = Converted(network, schedule, prediction)(*inputs())
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@torch.no_grad()
def test_sigma_data_is_that_of_edm(kind):
    network = NETWORKS[kind]()
    found = [Converted(network, EDM(), "edm", s)(*inputs()) for s in (0.5, 1.0)]
    expected = velocity_field(network, EDM(), "edm", 1.0)(*inputs())
    assert torch.equal(found[1], expected) and not torch.allclose(*found)


@torch.no_grad()
@cases
def test_heads_start_at_its_velocity(kind, name):
    network = Converted(NETWORKS[kind](), *CASES[name])
    expected = network(*inputs())
    tolerance = {"atol": 1e-5 * float(expected.abs().max()), "rtol": 0}
    mixture = GMNetwork(network, 3, noise=0.0, inner=8)(*inputs())
    for component in mixture["means"].unbind(1):
        torch.testing.assert_close(component, expected, **tolerance)
    assert mixture["logweights"].shape == (ROWS, 3, 1, 8, 4)
    grid = DXNetwork(network, 4)(*inputs())["output"]
    for estimate in grid.unbind(1):
        torch.testing.assert_close(estimate, expected, **tolerance)
    polynomial = DXNetwork(network, 4, polynomial=True)(*inputs())["output"]
    torch.testing.assert_close(polynomial[:, 0], expected, **tolerance)
    assert polynomial[:, 1:].abs().max() <= tolerance["atol"]


@torch.no_grad()
def test_the_jitter_of_a_head_is_what_the_prediction_makes_of_it(kind):
    """Its bias is of the network's output: b(t) of it in velocity."""
    network = Converted(NETWORKS[kind](), VP("cosine"), "v")
    x, t, condition = inputs()
    still, moved = (GMNetwork(network, 3, noise=n, inner=8)(x, t, condition) for n in (0.0, 0.1))
    jitter = (moved["means"] - still["means"])[:, :, :, 0, 0]
    b = coefficients(VP("cosine"), "v", t).b.float()
    expected = jitter[2:3] / b[2] * b[:, None, None]
    torch.testing.assert_close(jitter, expected, atol=1e-5, rtol=1e-4)
    assert jitter[2].abs().max() > 0.01


@torch.no_grad()
@cases
def test_features_are_the_networks_at_its_own_state_and_time(kind, name):
    inner = NETWORKS[kind]()
    schedule, prediction = CASES[name]
    network = Converted(inner, schedule, prediction)
    x, t, condition = inputs()
    c = coefficients(schedule, prediction, t)
    z, time = (c.scale.view(-1, 1, 1, 1) * x).float(), c.time.float()
    assert network.depth == inner.depth
    for depth in (1, network.depth):
        found = network.features(x, t, condition, None, depth)
        expected = inner.features(z, time, condition, None, depth)
        torch.testing.assert_close(found, expected)
        assert found.shape == (ROWS, *network.feature_shape(depth))


@torch.no_grad()
@cases
def test_a_second_time_changes_nothing_at_first_and_is_in_its_units(kind, name):
    network = Converted(NETWORKS[kind](), *CASES[name])
    x, t, condition = inputs()
    before = network(x, t, condition)
    network.add_duration()
    duration = torch.linspace(0, 1, ROWS)
    torch.testing.assert_close(network(x, t, condition, duration), before)
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    found = network(x, t, condition, duration)
    assert not torch.allclose(found, network(x, t, condition, 0 * duration))
    asked = []
    trunk = network.network.trunk
    network.network.trunk = lambda z, time, c, d: asked.append(d) or trunk(z, time, c, d)
    network(x, t, condition, duration)
    schedule = CASES[name][0]
    units = 1.0 if isinstance(schedule, EDM) else getattr(schedule, "units", 1000)
    torch.testing.assert_close(asked[0], duration * units)


@cases
def test_its_slope_along_a_path_is_that_of_differences(kind, name):
    """As the derivative of an average velocity is taken; off what is not covered."""
    network = Converted(NETWORKS[kind](), *CASES[name]).double()
    x, t, condition = inputs()
    x, t = x.double()[2:4], t.double()[2:4]
    condition = condition[torch.tensor([2, 3])]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).double()

    def along(state, time):
        return network(state, time, condition)

    _, slope = forward_mode.jvp(along, (x, t), (direction, torch.ones_like(t)))
    # Time is linear between a VP schedule's indices: both points lie between the same two.
    step = 1e-7
    with torch.no_grad():
        ahead = along(x + step * direction, t + step)
        difference = (ahead - along(x - step * direction, t - step)) / (2 * step)
    scale = float(difference.abs().max())
    torch.testing.assert_close(slope, difference, atol=1e-5 * scale, rtol=0)


def test_it_has_all_parts_of_a_backbone_and_the_networks_weights(kind):
    inner = NETWORKS[kind]()
    network = Converted(inner, VP(), "eps")
    assert lacking(network, list(PARTS)) == []
    assert network.output_layer is inner.output_layer
    assert {k.removeprefix("network.") for k in network.state_dict()} == set(inner.state_dict())
    for name in ("channels", "dim", "embedding_dim", "elements"):
        assert getattr(network, name) == getattr(inner, name)
    network.checkpointing = True
    assert inner.checkpointing and network.checkpointing
