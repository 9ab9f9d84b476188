"""Distributions whose velocity field is known exactly, and what their datasets share.

With ``x_t = (1 - t) x0 + t eps`` the velocity is ``(x_t - E[x0 | x_t]) / t``. The forms below are
arranged so that nothing cancels as t -> 0. Points are ``(B, D)``, times ``(B,)`` or numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from piflow_bench import flow
from piflow_bench.contracts.condition import Classes, Condition, Unconditional
from piflow_bench.contracts.data import Dataset, Modes, Truth
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.randomness import seed_of

Field = Callable[[Tensor, Tensor], Tensor]
"""An exact velocity ``u(x, t)``: ``(B, D), (B,) -> (B, D)``."""
Draw = Callable[[int, int], Tensor]
"""Exact samples ``draw(seed, n)``: float32 ``(n, D)``."""

TRAIN_SEED, TEST_SEED = 101, 202
POINTS = 20_000
"""Points of the training set, and as many held out."""


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


def class_velocity(
    x: Tensor,
    t: Tensor | float,
    labels: Tensor,
    means: Tensor,
    std: float,
    shares: Tensor | None = None,
) -> Tensor:
    """Velocity ``(B, D)`` of each row's class, of all of them for the null label.

    Args:
        x: states ``(B, D)``.
        t: their times.
        labels: ``(B,)`` in 0..K; K is the null label.
        means: ``(K, M, D)``: M components of each of K equal classes.
        std: of every component.
        shares: ``(K, M)``, of the components in their class; None: equal ones.
    """
    count, each = means.shape[:2]
    own = torch.full((count, each), 1 / each, dtype=means.dtype) if shares is None else shares
    table = torch.eye(count, dtype=means.dtype).repeat_interleave(each, 1) * own.flatten()
    table = torch.cat([table, own.flatten()[None] / count])
    weights = table.to(labels.device)[labels]
    return mixture_velocity(x, t, means.flatten(0, 1), weights, std)


def draw_classes(
    name: str, means: Tensor, std: float, seed: int, n: int, shares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Exact samples ``(n, D)`` float32 of equal classes, and their labels ``(n,)``."""
    generator = torch.Generator().manual_seed(seed_of(name, "draw", seed))
    count, each, dim = means.shape
    labels = torch.randint(count, (n,), generator=generator)
    if shares is None:
        component = torch.randint(each, (n,), generator=generator)
    else:
        component = torch.multinomial(shares[labels], 1, generator=generator)[:, 0]
    noise = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return (means[labels, component] + std * noise).float(), labels


def class_truth(
    name: str,
    means: Tensor,
    std: float,
    modes: Modes | None = None,
    shares: Tensor | None = None,
) -> Truth:
    """The closed form of equal classes; ``means`` is ``(K, M, D)``, ``shares`` ``(K, M)``."""

    def of_class(x: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
        return class_velocity(x, t, labels, means, std, shares)

    def velocity(x: Tensor, t: Tensor | float) -> Tensor:
        return of_class(x, t, torch.full((len(x),), len(means), device=x.device))

    def draw(seed: int, n: int) -> Tensor:
        return draw_classes(name, means, std, seed, n, shares)[0]

    def draw_labels(seed: int, n: int) -> Tensor:
        return draw_classes(name, means, std, seed, n, shares)[1]

    return Truth(velocity, draw, modes, of_class, draw_labels)


def _components(
    x: Tensor, t: Tensor, means: Tensor, weights: Tensor, std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets ``x - alpha m_k``, normalised log-weights, and the variance of ``x_t`` given k.

    Weights are ``(K,)``, or ``(B, K)``: of each row its own.
    """
    alpha = 1 - t
    variance = alpha**2 * std**2 + t**2
    offset = x[:, None] - alpha[..., None] * means.to(x)
    logits = weights.to(x).log() - offset.square().sum(2) / (2 * variance)
    return offset, logits.log_softmax(1), variance


# ---------------------------------------------------------------------------- the dataset


def dataset(
    name: str, truth: Truth, definition: str, space: SpacePlugin, place: Place, classes: int = 0
) -> Dataset:
    """A dataset of points in the plane whose closed form is known.

    ``definition`` holds every number that defines the distribution; its hash is the digest.
    """
    labelled, count = truth.draw_labels, classes

    def condition(seed: int) -> Condition:
        if labelled is None:
            return Unconditional(POINTS)
        return Classes(labelled(seed, POINTS), count)

    def conditions(seed: int, indices: Sequence[int]) -> Condition:
        if labelled is None:
            return Unconditional(len(indices))
        return Classes(torch.tensor([i % count for i in indices]), count)

    return Dataset(
        name=name,
        space=space.load((1, 1, 2), place),
        train=truth.draw(TRAIN_SEED, POINTS),
        train_condition=condition(TRAIN_SEED),
        test=truth.draw(TEST_SEED, POINTS),
        test_condition=condition(TEST_SEED),
        conditions=conditions,
        label_law="balanced" if count else None,
        digest=hashlib.sha256(f"{name} {definition}".encode()).hexdigest(),
        truth=truth,
    )
