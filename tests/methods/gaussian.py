"""A Gaussian data distribution N(mu, s^2) in closed form, and a context to run methods on it."""

from __future__ import annotations

import torch
from torch import nn

from piflow_bench.api import Batch, Context, Teacher, TrainingRandom, Unconditional, flow

MU, S = 0.7, 0.5


def posterior_mean(x, t, mu=MU, s=S):
    t = flow.expand(t, x)
    alpha = 1 - t
    return mu + s**2 * alpha / (alpha**2 * s**2 + t**2) * (x - alpha * mu)


def velocity(x, t, condition=None, mu=MU, s=S):
    return (x - posterior_mean(x, t, mu, s)) / flow.expand(t, x)


def flow_map(x, t, r, mu=MU, s=S):
    t, r = flow.expand(t, x), flow.expand(r, x)
    ratio = ((1 - r) ** 2 * s**2 + r**2) / ((1 - t) ** 2 * s**2 + t**2)
    return (1 - r) * mu + ratio.sqrt() * (x - (1 - t) * mu)


def average_velocity(x, t, r):
    """Exact (x_t - x_r) / (t - r); the velocity itself where r = t."""
    span = flow.expand(t - r, x)
    moving = span.abs() > 1e-12
    safe = torch.where(moving, span, torch.ones_like(span))
    return torch.where(moving, (x - flow_map(x, t, r)) / safe, velocity(x, t))


def teacher():
    return Teacher(velocity, nn.Linear(1, 1), closed_form=True)


def setting(networks, rows=64, dim=2, step=0, modules=None, progress=0.0):
    """A batch of N(mu, s^2) data in float64-free form and the context of one step."""
    random = TrainingRandom(5, step, 0, rows)
    x0 = MU + S * torch.randn(rows, dim, generator=torch.Generator().manual_seed(1))
    batch = Batch(x0, Unconditional(rows), (dim,))
    return batch, Context(step, progress, random, teacher(), networks, modules or networks)
