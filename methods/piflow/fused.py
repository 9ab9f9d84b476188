"""The Gaussian-mixture policy's rollout in one Triton launch, with its gradient.

Forward and backward read the mixture once. The backward pass recomputes weights from the states
that the forward pass kept: ``4 * substeps * C`` bytes a pixel, where autograd would keep several
tensors of K x C values a substep.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from piflow_bench.api import flow

if TYPE_CHECKING:
    from piflow_methods.piflow.policies import GMPolicy

LARGEST = 1024
"""Values K x C of a pixel, rounded up to powers of two, that still fit into registers."""
VALUES = 4096
"""Values of the mixture that a program holds."""


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def available(policy: GMPolicy, x: Tensor) -> bool:
    """Whether the fused rollout serves these tensors; otherwise PyTorch's operations do."""
    k, c = policy.means.shape[1:3]
    return (
        x.is_cuda
        and x.dtype != torch.float64
        and _power(k) * _power(c) <= LARGEST
        and not policy.x_src.requires_grad
        and torch._C._functorch.peek_interpreter_stack() is None
        and find_spec("triton") is not None
    )


def coefficients(
    policy: GMPolicy, counts: Tensor, raw_from: Tensor, raw_to: Tensor, steps: int
) -> Tensor:
    """``(B, steps, 3)``: alpha / sigma^2, zeta and dt / sigma of every substep, float32.

    Made in float64: zeta is a difference of nearly equal numbers close to the source.
    """
    eps = policy.eps
    index = torch.arange(steps + 1, device=counts.device)
    share = (index[None] / counts[:, None].double()).clamp(max=1)
    raw_from, raw_to = raw_from.double()[:, None], raw_to.double()[:, None]
    t = flow.warp(raw_from + (raw_to - raw_from) * share, policy.shift)
    sigma, alpha = t[:, :-1].clamp(min=eps), (1 - t[:, :-1]).clamp(min=eps)
    source = policy.t_src.double()[:, None]
    zeta_src = ((1 - source).clamp(min=eps) / source.clamp(min=eps)) ** 2
    table = [alpha / sigma**2, (alpha / sigma) ** 2 - zeta_src, t.diff(dim=1) / sigma]
    return torch.stack(table, dim=-1).float().contiguous()


class _Rollout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        logweights: Tensor,
        variance: Tensor,
        x: Tensor,
        x_src: Tensor,
        table: Tensor,
        counts: Tensor,
        facts: Tensor,
        eps: float,
    ) -> Tensor:
        from piflow_methods.piflow import kernels

        b, k, c, pixels = means.shape
        steps = table.shape[1]
        facts = torch.cat([facts, variance[:, None]], dim=1).contiguous()
        keep = any(ctx.needs_input_grad[:4])
        path = torch.empty((b, steps, c, pixels) if keep else (1,), device=x.device)
        out = torch.empty(x.shape, device=x.device)
        kb, cb = _power(k), _power(c)
        pb = max(VALUES // (kb * cb), 8)
        sizes = (k, c, pixels, steps, eps, kb, cb, min(pb, _power(pixels)))
        grid = (-(-pixels // sizes[-1]), b)
        kernels.forward[grid](
            means, logweights, x_src, x, out, path, table, counts, facts, *sizes, keep
        )
        ctx.save_for_backward(means, logweights, x_src, path, table, counts, facts)
        ctx.sizes, ctx.grid = sizes, grid
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: it would be silently zero.
            raise RuntimeError("the fused rollout has no second derivative; use use_fused=False")
        from piflow_methods.piflow import kernels

        means, logweights, x_src, path, table, counts, facts = ctx.saved_tensors
        device = grad.device
        grad_means = torch.empty(means.shape, device=device)
        grad_logweights = torch.empty(logweights.shape, device=device)
        grad_x = torch.empty(x_src.shape, device=device)
        parts = torch.empty((len(means), ctx.grid[0]), device=device)
        kernels.backward[ctx.grid](
            means, logweights, x_src, path, table, counts, facts, grad.contiguous(),
            grad_means, grad_logweights, grad_x, parts, *ctx.sizes,
        )  # fmt: skip
        return (
            grad_means.to(means.dtype),
            grad_logweights.to(logweights.dtype),
            parts.sum(1),
            grad_x,
            None,
            None,
            None,
            None,
            None,
        )


def rollout(
    policy: GMPolicy, x: Tensor, raw_from: Tensor, raw_to: Tensor, substeps: int, counts: Tensor
) -> Tensor:
    """The state at raw time ``raw_to`` from ``x`` at ``raw_from``, both ``(B,)``; see `GMPolicy`.

    ``counts`` ``(B,)`` are the samples' substeps, at most ``substeps``.
    """
    b, k, c = policy.means.shape[:3]
    pixels = x[0, 0].numel()
    steps = max(substeps, 1)  # Known without asking the GPU for the largest count.
    t_src = policy.t_src.float()
    sigma, alpha = t_src.clamp(min=policy.eps), (1 - t_src).clamp(min=policy.eps)
    facts = torch.stack([t_src, alpha / sigma**2], dim=1)
    variance = (2 * policy.logstds.float().reshape(b)).exp() * t_src**2
    out = _Rollout.apply(
        policy.means.reshape(b, k, c, pixels).contiguous(),
        policy.logweights.reshape(b, k, pixels).contiguous(),
        variance,
        x.reshape(b, c, pixels).float().contiguous(),
        policy.x_src.reshape(b, c, pixels).float().contiguous(),
        coefficients(policy, counts, raw_from, raw_to, steps),
        counts.to(torch.int32),
        facts.contiguous(),
        policy.eps,
    )
    return out.reshape(x.shape).to(x.dtype)
