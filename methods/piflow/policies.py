"""Network-free policies: a velocity at any later (x, t) from one network output.

A policy is made from u-space outputs at a source state ``(x_src, t_src)`` and is then integrated
for many cheap substeps. Arithmetic is float32, or float64 where the states are. Shapes: ``x``
``(B, C, *spatial)``, network outputs ``(B, K, C, *spatial)``, flow times ``(B,)``. Source:
arXiv 2510.14974, sections 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from piflow_methods.piflow import fused
from torch import Tensor

from piflow_bench.api import flow

TRAINING_EPS = 1e-6
"""Clamp of alpha, sigma and the posterior's denominator while training (official default)."""
SAMPLING_EPS = 1e-4
"""The same while sampling, and in every DX policy (official test settings)."""


def working(x: Tensor) -> Tensor:
    """A tensor in the precision of policies: at least float32."""
    return x if x.dtype == torch.float64 else x.float()


def dropped(logweights: Tensor, drop: Tensor) -> Tensor:
    """Log weights ``(B, K, 1, *spatial)`` without components where ``drop`` ``(B, K)`` is true.

    A sample that would lose every component keeps them all.
    """
    drop = drop & ~drop.all(1, keepdim=True)
    mask = drop.reshape(drop.shape + (1,) * (logweights.ndim - 2))
    return logweights.masked_fill(mask, float("-inf")).log_softmax(1)


def substep_counts(raw_from: Tensor, raw_to: Tensor, substeps: int) -> Tensor:
    """Euler substeps per sample: ``max(1, round(span * substeps))``, int64 ``(B,)``."""
    return ((raw_from - raw_to) * substeps).round().clamp(min=1).long()


def rollout(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    raw_from: Tensor,
    raw_to: Tensor,
    substeps: int,
    shift: float,
) -> Tensor:
    """Euler integration of ``velocity`` from raw time ``raw_from`` to ``raw_to``, both ``(B,)``.

    Substeps are uniform in raw time; every sample takes its own number of them
    (:func:`substep_counts`) and rests when it is done.
    """
    counts = substep_counts(raw_from, raw_to, substeps)
    times = substep_times(counts, raw_from, raw_to, int(counts.max()), shift)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        # A finished sample has t_next == t: its step is zero.
        x = x + flow.expand(t_next - t, x) * velocity(x, t)
    return x


def substep_times(
    counts: Tensor, raw_from: Tensor, raw_to: Tensor, steps: int, shift: float
) -> Tensor:
    """Flow times ``(steps + 1, B)`` of all substeps; a sample that is done stays at its last."""
    index = torch.arange(steps + 1, device=counts.device)
    share = (index[:, None] / counts.to(raw_from.dtype)).clamp(max=1)
    return flow.warp(raw_from + (raw_to - raw_from) * share, shift)


@dataclass(frozen=True)
class GMPolicy:
    """Gaussian-mixture policy (GMFlow): the closed-form posterior mean of a mixture over x0.

    Args:
        means: u-space means ``(B, K, C, *spatial)``.
        logstds: log standard deviation, one scalar a sample, ``(B, 1, ...)``.
        logweights: log-softmax weights ``(B, K, 1, *spatial)``; one mixture per latent pixel over
            its C channels.
        x_src: source state ``(B, C, *spatial)``.
        t_src: source flow time ``(B,)``.
        shift: time warp m of the rollout.
        eps: clamp of alpha, sigma and denominators.
    """

    means: Tensor
    logstds: Tensor
    logweights: Tensor
    x_src: Tensor
    t_src: Tensor
    shift: float = 1.0
    eps: float = TRAINING_EPS

    @cached_property
    def _constants(self) -> tuple[Tensor, ...]:
        """What does not change along a rollout: x0-space mixture and source statistics."""
        with torch.enable_grad():  # A first use under no_grad must not cut later ones' gradients.
            src = working(self.x_src)
            t_src = flow.expand(self.t_src.to(src.dtype), src)
            sigma, alpha = t_src.clamp(min=self.eps), (1 - t_src).clamp(min=self.eps)
            means = src[:, None] - t_src[:, None] * working(self.means)
            half_squares = means.square().sum(2, keepdim=True) / 2
            variance = (2 * working(self.logstds)).exp()[:, 0] * t_src**2
            return means, half_squares, variance, alpha * src / sigma**2, (alpha / sigma) ** 2

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity ``(B, C, *spatial)`` at states ``x`` and flow times ``t`` ``(B,)``."""
        dtype, x = x.dtype, working(x)
        means, half_squares, variance, nu_src, zeta_src = self._constants
        t = flow.expand(t.to(x.dtype), x)
        sigma, alpha = t.clamp(min=self.eps), (1 - t).clamp(min=self.eps)
        nu = alpha * x / sigma**2 - nu_src
        zeta = (alpha / sigma) ** 2 - zeta_src
        denominator = (variance * zeta + 1).clamp(min=self.eps)
        # a'_k = a_k + sum_C mu_k (nu - zeta mu_k / 2) / d
        product = (means * nu[:, None]).sum(2, keepdim=True)
        gain = (product - zeta[:, None] * half_squares) / denominator[:, None]
        weights = (working(self.logweights) + gain).softmax(1)
        # The weights sum to one, so x0 = sum_k w_k (s^2 nu + mu_k) / d needs one pass over K.
        x0 = (variance * nu + (weights * means).sum(1)) / denominator
        return ((x - x0) / sigma).to(dtype)

    def rollout(
        self,
        x: Tensor,
        raw_from: Tensor,
        raw_to: Tensor,
        substeps: int = 128,
        use_fused: bool | None = None,
    ) -> Tensor:
        """The state at raw time ``raw_to``, from ``x`` at ``raw_from`` (both ``(B,)``).

        One Triton kernel does it where it can (``use_fused`` None), or one of the two ways is
        forced.
        """
        if fused.available(self, x) if use_fused is None else use_fused:
            counts = substep_counts(raw_from, raw_to, substeps)
            return fused.rollout(self, x, raw_from, raw_to, substeps, counts)
        return rollout(self.velocity, x, raw_from, raw_to, substeps, self.shift)

    def with_temperature(self, temperature: float) -> Self:
        """Sharpened weights and narrower components (inference only); T >= 1 changes nothing."""
        if temperature >= 1:
            return self
        return replace(
            self,
            logweights=(self.logweights / temperature).log_softmax(1),
            logstds=self.logstds + math.log(temperature) / 2,
        )

    def with_dropout(self, drop: Tensor) -> Self:
        """Components where ``drop`` (B, K, bool) is true are removed and the rest renormalised."""
        return replace(self, logweights=dropped(self.logweights, drop))

    def detach(self) -> Self:
        """Without gradient."""
        return replace(
            self,
            means=self.means.detach(),
            logstds=self.logstds.detach(),
            logweights=self.logweights.detach(),
        )

    def with_eps(self, eps: float) -> Self:
        """With another clamp."""
        return replace(self, eps=eps)


@dataclass(frozen=True)
class DXPolicy:
    """Dynamic-x0 policy: the data estimate moves along raw time, on a grid or as a polynomial.

    Args:
        output: u-space outputs ``(B, N, C, *spatial)``.
        x_src: source state ``(B, C, *spatial)``.
        t_src: source flow time ``(B,)``.
        segment: length in raw time of the segment that the policy spans, number or ``(B,)``.
        shift: time warp m.
        mode: ``grid`` (N estimates at uniform raw times from the segment's end to its source,
            linear interpolation); ``polynomial`` (coefficients of powers of the elapsed raw time;
            every output becomes a coefficient ``x_src - t_src * output``, as in the official code);
            ``coefficients`` (the same polynomial, but outputs after the first are the coefficients
            themselves, so that a zero output is a constant estimate: what we train).
    """

    output: Tensor
    x_src: Tensor
    t_src: Tensor
    segment: float | Tensor = 1.0
    shift: float = 1.0
    mode: str = "grid"
    eps: float = SAMPLING_EPS

    @cached_property
    def _estimates(self) -> Tensor:
        """Data estimates, or the polynomial's coefficients, ``(B, N, C, *spatial)``."""
        with torch.enable_grad():  # A first use under no_grad must not cut later ones' gradients.
            src, output = working(self.x_src), working(self.output)
            t_src = flow.expand(self.t_src.to(src.dtype), src)[:, None]
            estimates = src[:, None] - t_src * output
            if self.mode == "coefficients":
                estimates = torch.cat([estimates[:, :1], output[:, 1:]], dim=1)
            return estimates

    def _weighted(self, weights: Tensor) -> Tensor:
        """Sum of the estimates ``(B, C, *spatial)`` by weights ``(B, N)``.

        No matrix product: autocast would make it bfloat16, and GPUs may make it TF32.
        """
        estimates = self._estimates
        weights = weights.to(estimates.dtype)
        return (weights.reshape(weights.shape + (1,) * (estimates.ndim - 2)) * estimates).sum(1)

    def _shares(self, t: Tensor) -> Tensor:
        """Weights ``(..., B, N)`` of the estimates at flow times ``(..., B)``."""
        n = self.output.shape[1]
        raw_src = flow.unwarp(self.t_src.to(t.dtype), self.shift)
        elapsed = raw_src - flow.unwarp(t, self.shift)
        if self.mode in ("polynomial", "coefficients"):
            return elapsed[..., None] ** torch.arange(n, device=t.device)
        if n == 1:
            return torch.ones_like(elapsed)[..., None]
        segment = torch.minimum(
            torch.as_tensor(self.segment, device=t.device, dtype=t.dtype), raw_src
        )
        place = (1 - elapsed / segment.clamp(min=self.eps)).clamp(0, 1) * (n - 1)
        nodes = torch.arange(n, device=t.device)
        return (1 - (place[..., None] - nodes).abs()).clamp(min=0)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity ``(B, C, *spatial)`` at states ``x`` and flow times ``t`` ``(B,)``."""
        dtype, x = x.dtype, working(x)
        t = t.to(x.dtype)
        x0 = self._weighted(self._shares(t)).to(x.dtype)
        return ((x - x0) / flow.expand(t, x).clamp(min=self.eps)).to(dtype)

    def rollout(self, x: Tensor, raw_from: Tensor, raw_to: Tensor, substeps: int = 128) -> Tensor:
        """The state at raw time ``raw_to``, from ``x`` at ``raw_from`` (both ``(B,)``).

        Every Euler step is affine in the state and the estimates, ``x + r (x - sum_n w_n e_n)``
        with r = dt / t, so all of them together are one sum: ``A x + sum_n W_n e_n``.
        """
        counts = substep_counts(raw_from, raw_to, substeps)
        steps = max(substeps, 1)
        times = substep_times(counts, raw_from.double(), raw_to.double(), steps, self.shift)
        ratio = times.diff(dim=0) / times[:-1].clamp(min=self.eps)
        growth = (1 + ratio).flip(0).cumprod(0).flip(0)  # Over this step and those after it.
        after = torch.cat([growth[1:], torch.ones_like(growth[:1])])
        weights = -((ratio * after)[..., None] * self._shares(times[:-1])).sum(0)
        dtype, x = x.dtype, working(x)
        return (flow.expand(growth[0].to(x.dtype), x) * x + self._weighted(weights)).to(dtype)

    def with_temperature(self, temperature: float) -> Self:
        """DX policies have no temperature."""
        return self

    def with_dropout(self, drop: Tensor) -> Self:
        """DX policies have no dropout."""
        return self

    def detach(self) -> Self:
        """Without gradient."""
        return replace(self, output=self.output.detach())

    def with_eps(self, eps: float) -> Self:
        """The clamp of DX policies is fixed."""
        return self


def average_velocity(
    policy: Any, x: Tensor, raw_from: Tensor, raw_to: Tensor, substeps: int
) -> Tensor:
    """Mean velocity along the policy's own path; the local velocity where the span is short.

    Where the span is under two substeps the instantaneous ``policy.velocity`` at the start is used.
    """
    short = substep_counts(raw_from, raw_to, substeps) < 2
    local_time = flow.warp(raw_from, policy.shift)
    local = policy.velocity(x, local_time)
    if bool(short.all()):
        return local
    end = policy.rollout(x, raw_from, raw_to, substeps)
    span = flow.expand(local_time - flow.warp(raw_to, policy.shift), x).clamp(min=1e-6)
    return torch.where(flow.expand(short.float(), x) > 0, local, (x - end) / span)
