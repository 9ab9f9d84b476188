"""Tiny datasets and teachers of random weights, on which `check` runs a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes, Condition, Unconditional
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Guidance, Teacher
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.mlp import MLP


@dataclass(frozen=True)
class StandIn:
    """A dataset without files; every call of ``teacher`` makes a new one of the same weights."""

    dataset: Dataset
    teacher: Callable[[int], Teacher]


def _random_network(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network no part of which is at its (often zero) start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        for p in network.parameters():
            nn.init.normal_(p, std=0.15)
    return network


def _stand_in(
    kind: str,
    shape: tuple[int, ...],
    condition: Callable[[Sequence[int]], Condition],
    backbone: Callable[[], nn.Module],
    teacher: Callable[[int], Teacher],
) -> StandIn:
    data = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    conditions = condition(range(len(data)))
    dataset = Dataset(
        name=f"stand-in {kind}",
        kind=kind,
        shape=shape,
        train=data,
        train_condition=conditions,
        test=data,
        test_condition=conditions,
        conditions=lambda seed, indices: condition(indices),
        teacher=lambda: teacher(0),
        fresh_network=backbone,
        extractors={},
        digest="stand-in",
    )
    return StandIn(dataset, teacher)


def _gaussian_velocity(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The exact velocity of data N(0.3, 0.5^2)."""
    mean, std = 0.3, 0.5
    at = flow.expand(t, x)
    alpha = 1 - at
    variance = alpha**2 * std**2 + at**2
    return (at - std**2 * alpha) / variance * (x - alpha * mean) - mean


def images() -> StandIn:
    """A guided, label-conditional network on images, as the digits have it."""

    def backbone() -> DiT:
        return DiT(channels=1, height=4, dim=16, depth=1, heads=2, classes=3)

    def teacher(seed: int) -> Teacher:
        network = _random_network(backbone, seed)
        return Teacher(network, network, Guidance(1.5), digest="stand-in")

    def condition(indices: Sequence[int]) -> Condition:
        return Classes(torch.tensor([i % 3 for i in indices]), 3)

    return _stand_in("images", (1, 4, 4), condition, backbone, teacher)


def points() -> StandIn:
    """A closed-form, unconditional teacher on the plane, with a backbone of its own."""

    def backbone() -> MLP:
        return MLP(dim=16, depth=1)

    def teacher(seed: int) -> Teacher:
        network = _random_network(backbone, seed)
        return Teacher(_gaussian_velocity, network, digest="stand-in", closed_form=True)

    return _stand_in("points", (2,), lambda rows: Unconditional(len(rows)), backbone, teacher)
