"""Distributions whose velocity field is known exactly, and what their datasets share.

With ``x_t = (1 - t) x0 + t eps`` the velocity is ``(x_t - E[x0 | x_t]) / t``. The forms below are
arranged so that nothing cancels as t -> 0. Points are ``(B, D)``, times ``(B,)`` or numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from piflow_bench import flow
from piflow_bench.contracts.condition import Condition, Unconditional
from piflow_bench.contracts.data import Dataset, Modes
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.data.digits import load_weights
from piflow_bench.files import hub
from piflow_bench.networks.mlp import MLP
from piflow_bench.randomness import seed_of
from piflow_bench.settings import build_dataclass, setting

Field = Callable[[Tensor, Tensor], Tensor]
"""An exact velocity ``u(x, t)``: ``(B, D), (B,) -> (B, D)``."""
Draw = Callable[[int, int], Tensor]
"""Exact samples ``draw(seed, n)``: float32 ``(n, D)``."""

TRAIN_SEED, TEST_SEED, BACKBONE_SEED = 101, 202, 303
BACKBONE = "dataset.settings.backbone"
POINTS = 20_000
"""Points of the training set, and as many held out."""


@dataclass(frozen=True)
class Config:
    """Settings of the datasets: of the common start of all students."""

    backbone_steps: int = setting(1500, least=0)
    dim: int = setting(64, least=1)
    depth: int = setting(3, least=1)
    backbone: str | None = setting(None)  # a file of weights fitted before


# ---------------------------------------------------------------------------- one Gaussian


def gaussian_velocity(x: Tensor, t: Tensor | float, mean: Tensor | float, std: float) -> Tensor:
    """Velocity ``(B, D)`` of data N(mean, std^2); ``mean`` is a number or ``(D,)``."""
    t = flow.expand(t, x)
    variance = (1 - t) ** 2 * std**2 + t**2
    return (t - std**2 * (1 - t)) / variance * (x - (1 - t) * mean) - mean


def gaussian_flow_map(
    x: Tensor, t: Tensor | float, r: Tensor | float, mean: Tensor | float, std: float
) -> Tensor:
    """The state at time r of the ODE that passes x at time t, for data N(mean, std^2)."""
    t, r = flow.expand(t, x), flow.expand(r, x)
    ratio = ((1 - r) ** 2 * std**2 + r**2) / ((1 - t) ** 2 * std**2 + t**2)
    return (1 - r) * mean + ratio.sqrt() * (x - (1 - t) * mean)


# ---------------------------------------------------------------------------- isotropic mixture


def posterior(
    x: Tensor, t: Tensor | float, means: Tensor, weights: Tensor, std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The mixture of x0 given ``x_t``, for data ``sum_k weights_k N(means_k, std^2 I)``.

    Args:
        x: states ``(B, D)``.
        t: their times.
        means: ``(K, D)``.
        weights: ``(K,)``, summing to 1.
        std: the common standard deviation.

    Returns:
        Means ``(B, K, D)``, variance ``(B, 1)`` (common to all components) and normalised
        log-weights ``(B, K)``.
    """
    t = torch.broadcast_to(flow.expand(t, x), (len(x), 1))
    offset, logweights, variance = _components(x, t, means, weights, std)
    gain = std**2 * (1 - t) / variance
    component_means = means.to(x)[None] + gain[:, :, None] * offset
    return component_means, std**2 * t**2 / variance, logweights


def mixture_posterior_mean(
    x: Tensor, t: Tensor | float, means: Tensor, weights: Tensor, std: float
) -> Tensor:
    """``E[x0 | x_t]`` ``(B, D)``; arguments as :func:`posterior`."""
    component_means, _, logweights = posterior(x, t, means, weights, std)
    return (logweights.exp()[:, :, None] * component_means).sum(1)


def mixture_velocity(
    x: Tensor, t: Tensor | float, means: Tensor, weights: Tensor, std: float
) -> Tensor:
    """Velocity ``(B, D)``; arguments as :func:`posterior`, t = 0 included."""
    t = flow.expand(t, x)
    offset, logweights, variance = _components(x, t, means, weights, std)
    # (x - E_k) / t with the division done by hand: 1 - std^2 alpha / v = t (t - std^2 alpha) / v.
    slope = (t - std**2 * (1 - t)) / variance
    # Sums, not matrix products: their FLOPs would be booked as a network's.
    mixed_offset = (logweights.exp()[:, :, None] * offset).sum(1)
    mixed_mean = (logweights.exp()[:, :, None] * means.to(x)).sum(1)
    return slope * mixed_offset - mixed_mean


def _components(
    x: Tensor, t: Tensor, means: Tensor, weights: Tensor, std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets ``x - alpha m_k``, normalised log-weights, and the variance of ``x_t`` given k."""
    alpha = 1 - t
    variance = alpha**2 * std**2 + t**2
    offset = x[:, None] - alpha[..., None] * means.to(x)
    logits = weights.to(x).log() - offset.square().sum(2) / (2 * variance)
    return offset, logits.log_softmax(1), variance


# ---------------------------------------------------------------------------- the common start


def fit_backbone(
    velocity: Field,
    draw: Draw,
    steps: int,
    seed: int,
    batch: int = 512,
    lr: float = 2e-3,
    dim: int = 64,
    depth: int = 3,
) -> MLP:
    """An MLP fitted to an exact velocity: the initialisation that all students share.

    Mean squared error at ``x_t`` of fresh samples and uniform t; AdamW, cosine decay to 0 (so the
    last weights need no averaging). Deterministic by ``seed``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(dim=dim, depth=depth)
    if steps == 0:
        return network
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    data = draw(seed, steps * batch).reshape(steps, batch, 2)
    condition = Unconditional(batch)
    for step, x0 in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        t = torch.rand(batch, generator=generator)
        x = flow.interpolate(x0, torch.randn(x0.shape, generator=generator), t)
        loss = (network(x, t, condition) - velocity(x, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


# ---------------------------------------------------------------------------- the dataset


def dataset(
    name: str,
    velocity: Field,
    draw: Draw,
    definition: str,
    settings: Mapping[str, Any],
    modes: Modes | None = None,
) -> Dataset:
    """A dataset of points in the plane whose teacher is the exact ``velocity``.

    ``definition`` holds every number that defines the distribution; its hash is the digest.

    Raises:
        UserError: for settings that ``Config`` has not.
    """
    options = build_dataclass(Config, settings, "dataset.settings")
    digest = hashlib.sha256(f"{name} {definition}".encode()).hexdigest()
    identity = {k: v for k, v in settings.items() if k != "backbone"}
    if options.backbone is not None:
        identity["backbone"] = hub.digest(hub.local_path(options.backbone, BACKBONE))

    def fresh_network() -> MLP:
        return MLP(dim=options.dim, depth=options.depth)

    @cache
    def teacher() -> Teacher:
        def field(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return velocity(x, t)

        if options.backbone is not None:
            network = fresh_network()
            load_weights(hub.local_path(options.backbone, BACKBONE), network)
        else:
            network = fit_backbone(
                velocity,
                draw,
                options.backbone_steps,
                seed_of(name, BACKBONE_SEED),
                dim=options.dim,
                depth=options.depth,
            )
        return Teacher(field, network, closed_form=True, digest=digest)

    return Dataset(
        name=name,
        kind="points",
        shape=(2,),
        train=draw(TRAIN_SEED, POINTS),
        train_condition=Unconditional(POINTS),
        test=draw(TEST_SEED, POINTS),
        test_condition=Unconditional(POINTS),
        conditions=lambda seed, indices: Unconditional(len(indices)),
        teacher=teacher,
        fresh_network=fresh_network,
        extractor_digests={"points": "coordinates"},
        extractors={"points": lambda samples: samples.double().numpy()},
        digest=digest,
        identity=identity,
        modes=modes,
        draw=draw,
    )
