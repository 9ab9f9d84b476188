"""ArcFlow's policy: velocities that grow or fade at rates of their own, integrated in closed form.

From a source time t_src the velocity at a later (smaller) time t is

    pi(t) = sum_k w_k u_k exp(g_k (t_src - t)),

whatever the state, so that the way from t_a to t_b is exact without substeps:

    x_b = x_a - sum_k w_k u_k exp(g_k (t_src - t_a)) (exp(g_k D) - 1) / g_k,  D = t_a - t_b.

Source: arXiv 2602.09014; in its code a rate is shared by a latent pixel's channels, and that of the
first component is 0. Shapes are those of ``policies``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from piflow_methods.piflow.policies import dropped, working
from torch import Tensor

from piflow_bench.api import flow

SMALL = 1e-3
"""Of exponents below it the mean growth is a series: its next term is of relative size 4e-11."""


def mean_growth(exponent: Tensor) -> Tensor:
    """``(e^z - 1) / z``, the mean of ``e^(z s)`` over s in [0, 1]; 1 at 0, with its gradient."""
    small = exponent.abs() < SMALL
    safe = torch.where(small, torch.ones_like(exponent), exponent)
    series = 1 + exponent / 2 * (1 + exponent / 3)
    return torch.where(small, series, safe.expm1() / safe)


@dataclass(frozen=True)
class ArcPolicy:
    """A mixture of velocities that change exponentially in time.

    Args:
        means: velocities u ``(B, K, C, *spatial)`` at the source time, K at least 2.
        rates: g of all components but the first, ``(B, K - 1, 1, *spatial)``, in 1 / time.
        logweights: log-softmax weights ``(B, K, 1, *spatial)``.
        x_src: source state ``(B, C, *spatial)``.
        t_src: source flow time ``(B,)``.
        shift: time warp m of the rollout.
    """

    means: Tensor
    rates: Tensor
    logweights: Tensor
    x_src: Tensor
    t_src: Tensor
    shift: float = 1.0

    def _mean(self, t_from: Tensor, t_to: Tensor) -> Tensor:
        """Mean velocity ``(B, C, *spatial)`` from one flow time to another, ``(B,)``."""
        means, rates = working(self.means), working(self.rates)
        rates = torch.cat([torch.zeros_like(rates[:, :1]), rates], 1)
        past, span = (flow.expand(d.to(means), means) for d in (self.t_src - t_from, t_from - t_to))
        growth = (rates * past).exp() * mean_growth(rates * span)
        return (working(self.logweights).exp() * growth * means).sum(1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity ``(B, C, *spatial)`` at flow times ``t`` ``(B,)``; states do not matter."""
        return self._mean(t, t).to(x)

    def rollout(self, x: Tensor, raw_from: Tensor, raw_to: Tensor, substeps: int = 128) -> Tensor:
        """The state at raw time ``raw_to``, from ``x`` at ``raw_from`` (both ``(B,)``); exact."""
        t_from, t_to = flow.warp(raw_from, self.shift), flow.warp(raw_to, self.shift)
        state = working(x)
        return (state - flow.expand(t_from - t_to, state) * self._mean(t_from, t_to)).to(x)

    def with_temperature(self, temperature: float) -> Self:
        """This policy has no temperature."""
        return self

    def with_dropout(self, drop: Tensor) -> Self:
        """Components where ``drop`` (B, K, bool) is true are removed and the rest renormalised."""
        return replace(self, logweights=dropped(self.logweights, drop))

    def detach(self) -> Self:
        """Without gradient."""
        return replace(
            self,
            means=self.means.detach(),
            rates=self.rates.detach(),
            logweights=self.logweights.detach(),
        )

    def with_eps(self, eps: float) -> Self:
        """Nothing is clamped."""
        return self
