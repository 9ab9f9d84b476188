"""Guidance as an input of every backbone."""

import pytest
import torch
from torch import nn

from piflow_bench.api import Classes
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.mlp import MLP
from piflow_bench.networks.unet import UNet
from piflow_bench.teachers.converted import Converted
from piflow_bench.teachers.schedules import VP
from tests.networks.test_unet import KINDS

ROWS = 3


def unet():
    return UNet(KINDS["ADM"])


def moved(network):
    """No part of it is at its start."""
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator)
    return network


NETWORKS = {
    "dit": (lambda: DiT(1, 4, dim=16, depth=1, heads=2, classes=3), (1, 4, 4)),
    "unet": (unet, (KINDS["ADM"].channels, *KINDS["ADM"].sides)),
    "mlp": (lambda: MLP(2, dim=16, depth=2, classes=3), (2,)),
    "converted": (
        lambda: Converted(unet(), VP(), "eps"),
        (KINDS["ADM"].channels, *KINDS["ADM"].sides),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_it_changes_nothing_at_first_and_each_number_counts_once_trained(name):
    make, shape = NETWORKS[name]
    network = moved(make())
    x, t = torch.randn(ROWS, *shape), torch.tensor([0.2, 0.5, 0.9])
    condition = Classes(torch.tensor([0, 2, 3]), 3)
    before, told = network(x, t, condition), torch.rand(ROWS, 2)
    network.add_guidance(2)
    torch.testing.assert_close(network(x, t, condition, guidance=told), before)
    moved(network)
    found = network(x, t, condition, guidance=told)
    for column in range(2):
        other = told.clone()
        other[:, column] = 1 - other[:, column]
        assert not torch.allclose(network(x, t, condition, guidance=other), found, atol=1e-5)
    # Each row is told its own.
    other = told.clone()
    other[0] = 1 - other[0]
    again = network(x, t, condition, guidance=other)
    torch.testing.assert_close(again[1:], found[1:])
    assert not torch.allclose(network(x, t, condition), found, atol=1e-5)


@torch.no_grad()
def test_a_network_of_another_time_is_told_it_in_that_unit():
    network = Converted(NETWORKS["unet"][0](), VP(), "eps")
    network.add_guidance(1)
    asked, trunk = [], network.network.trunk

    def seen(z, time, condition, duration, guidance):
        asked.append(guidance)
        return trunk(z, time, condition, duration, guidance)

    network.network.trunk = seen
    x = torch.randn(ROWS, *NETWORKS["unet"][1])
    condition = Classes(torch.tensor([0, 2, 3]), 3)
    network(x, torch.rand(ROWS), condition, guidance=torch.full((ROWS, 1), 0.5))
    torch.testing.assert_close(asked[0], torch.full((ROWS, 1), 0.5 * VP().steps))


def test_inputs_start_from_the_trained_time_and_have_weights_of_their_own():
    network = NETWORKS["dit"][0]()
    nn.init.normal_(network.emb.timestep_embedder.linear_1.weight)
    network.add_guidance(2)
    first, second = network.emb.guidance_embedder
    trained = network.emb.timestep_embedder.linear_1.weight
    assert torch.equal(first.linear_1.weight, trained) and first is not second
    assert first.linear_1.weight.data_ptr() != second.linear_1.weight.data_ptr()
