"""Tiny datasets and teachers of random weights, on which `check` runs methods and teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes, Condition, Unconditional
from piflow_bench.contracts.data import Dataset, Truth
from piflow_bench.contracts.space import Space
from piflow_bench.contracts.teacher import Guidance, Teacher
from piflow_bench.networks.dit import DiT
from piflow_bench.networks.mlp import MLP


@dataclass(frozen=True)
class StandIn:
    """A dataset without files; every call of ``teacher`` makes a new one of the same weights."""

    dataset: Dataset
    teacher: Callable[[int], Teacher]
    fresh_network: Callable[[], nn.Module]


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
    truth: Truth | None = None,
) -> StandIn:
    data = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    conditions = condition(range(len(data)))
    dataset = Dataset(
        name=f"stand-in {kind}",
        space=Space(shape, bounded=len(shape) == 3),
        train=data,
        train_condition=conditions,
        test=data,
        test_condition=conditions,
        conditions=lambda seed, indices: condition(indices),
        digest="stand-in",
        truth=truth,
    )
    return StandIn(dataset, teacher, backbone)


MEAN, STD = 0.3, 0.5
"""Of the points' distribution."""


def _gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """The exact velocity of data N(MEAN, STD^2)."""
    at = flow.expand(t, x)
    alpha = 1 - at
    variance = alpha**2 * STD**2 + at**2
    return (at - STD**2 * alpha) / variance * (x - alpha * MEAN) - MEAN


def _gaussian_points(seed: int, n: int) -> Tensor:
    return MEAN + STD * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def images() -> StandIn:
    """A guided, label-conditional network on images, as the digits have it."""

    def backbone() -> DiT:
        return DiT(channels=1, height=4, dim=16, depth=1, heads=2, classes=3)

    def teacher(seed: int) -> Teacher:
        network = _random_network(backbone, seed)
        return Teacher(network, network, Guidance(1.5))

    def condition(indices: Sequence[int]) -> Condition:
        return Classes(torch.tensor([i % 3 for i in indices]), 3)

    return _stand_in("images", (1, 4, 4), condition, backbone, teacher)


def unlabelled_images() -> StandIn:
    """A network on the same images without labels."""

    def backbone() -> DiT:
        return DiT(channels=1, height=4, dim=16, depth=1, heads=2, classes=0)

    def teacher(seed: int) -> Teacher:
        network = _random_network(backbone, seed)
        return Teacher(network, network)

    def condition(indices: Sequence[int]) -> Condition:
        return Unconditional(len(indices))

    return _stand_in("images without labels", (1, 4, 4), condition, backbone, teacher)


def points() -> StandIn:
    """A closed-form, unconditional teacher on the plane, with a backbone of its own."""

    def backbone() -> MLP:
        return MLP(dim=16, depth=1)

    def teacher(seed: int) -> Teacher:
        network = _random_network(backbone, seed)
        return Teacher(lambda x, t, _: _gaussian_velocity(x, t), network, closed_form=True)

    def condition(indices: Sequence[int]) -> Condition:
        return Unconditional(len(indices))

    truth = Truth(_gaussian_velocity, _gaussian_points)
    return _stand_in("points", (2,), condition, backbone, teacher, truth)
