"""Triton kernels of the Gaussian-mixture policy's rollout: one launch for all substeps.

A policy factorises over latent pixels, so a program takes some pixels of one sample, reads their
K x C means and K weights once, and keeps them in registers for every substep. Import this module
only where Triton is installed.

Shapes, all contiguous: ``u`` (B, K, C, P) u-space means, ``logweights`` (B, K, P), ``x`` and
``x_src`` (B, C, P), ``path`` (B, S, C, P) states before each substep, ``table`` (B, S, 3) of
alpha / sigma^2, zeta and dt / sigma, ``facts`` (B, 3) of t_src, alpha_src / sigma_src^2 and the
component variance. Arithmetic is float32. Notation: METHODS of arXiv 2510.14974, section 4.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weights(logits):
    """Softmax over the first axis ``(K, P)``."""
    scaled = tl.exp(logits - tl.max(logits, axis=0)[None, :])
    return scaled / tl.sum(scaled, axis=0)[None, :]


@triton.jit
def _load(
    u, logweights, x_src, facts, K, C, P,
    KB: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    """A program's places and masks, and the mixture over x0 of its pixels, in registers."""
    b = tl.program_id(1).to(tl.int64)  # Paths of large batches pass 2^31 values.
    k = tl.arange(0, KB)
    c = tl.arange(0, CB)
    p = tl.program_id(0) * PB + tl.arange(0, PB)
    states = (b * C + c)[:, None] * P + p[None, :]
    here = (c < C)[:, None] & (p < P)[None, :]
    mixture = (b * K + k)[:, None] * P + p[None, :]
    inside = (k < K)[:, None] & (p < P)[None, :]
    every = ((b * K + k)[:, None, None] * C + c[None, :, None]) * P + p[None, None, :]
    whole = inside[:, None, :] & here[None, :, :]

    t_src = tl.load(facts + 3 * b)
    nu_scale = tl.load(facts + 3 * b + 1)
    variance = tl.load(facts + 3 * b + 2)
    source = tl.load(x_src + states, mask=here, other=0.0).to(tl.float32)
    means = tl.load(u + every, mask=whole, other=0.0).to(tl.float32)
    means = tl.where(whole, source[None, :, :] - t_src * means, 0.0)
    half_squares = tl.sum(means * means, axis=1) / 2
    a = tl.load(logweights + mixture, mask=inside, other=float("-inf")).to(tl.float32)
    a = tl.where((p < P)[None, :], a, 0.0)  # Pixels beyond the image: any finite weights.
    return (
        states, here, mixture, inside, every, whole,
        t_src, nu_scale, variance, source, means, half_squares, a,
    )  # fmt: skip


@triton.jit
def forward(
    u, logweights, x_src, x, out, path, table, counts, facts,
    K, C, P, S, eps,
    KB: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """States after the rollout into ``out``; states before each substep into ``path`` if KEEP."""
    b = tl.program_id(1).to(tl.int64)  # Paths of large batches pass 2^31 values.
    c = tl.arange(0, CB)
    p = tl.program_id(0) * PB + tl.arange(0, PB)
    (
        states, here, mixture, inside, every, whole,
        t_src, nu_scale, variance, source, means, half_squares, a,
    ) = _load(u, logweights, x_src, facts, K, C, P, KB, CB, PB)  # fmt: skip
    state = tl.load(x + states, mask=here, other=0.0).to(tl.float32)
    for i in range(tl.load(counts + b)):
        row = table + (b * S + i) * 3
        scale, zeta, ratio = tl.load(row), tl.load(row + 1), tl.load(row + 2)
        if KEEP:
            tl.store(path + ((b * S + i) * C + c)[:, None] * P + p[None, :], state, mask=here)
        nu = scale * state - nu_scale * source
        denominator = tl.maximum(variance * zeta + 1, eps)
        gain = (tl.sum(means * nu[None, :, :], axis=1) - zeta * half_squares) / denominator
        mean = tl.sum(_weights(a + gain)[:, None, :] * means, axis=0)
        x0 = (variance * nu + mean) / denominator
        state = state + ratio * (state - x0)
    tl.store(out + states, state, mask=here)


@triton.jit
def backward(
    u, logweights, x_src, path, table, counts, facts, grad_out,
    grad_u, grad_logweights, grad_x, grad_variance,
    K, C, P, S, eps,
    KB: tl.constexpr, CB: tl.constexpr, PB: tl.constexpr,
):  # fmt: skip
    """The adjoint of :func:`forward`, substep by substep from the end; weights are recomputed.

    ``grad_variance`` (B, blocks) holds each program's part, to be summed without atomics.
    """
    b = tl.program_id(1).to(tl.int64)  # Paths of large batches pass 2^31 values.
    c = tl.arange(0, CB)
    p = tl.program_id(0) * PB + tl.arange(0, PB)
    (
        states, here, mixture, inside, every, whole,
        t_src, nu_scale, variance, source, means, half_squares, a,
    ) = _load(u, logweights, x_src, facts, K, C, P, KB, CB, PB)  # fmt: skip
    grad = tl.load(grad_out + states, mask=here, other=0.0).to(tl.float32)
    grad_means = tl.zeros((KB, CB, PB), tl.float32)
    grad_a = tl.zeros((KB, PB), tl.float32)
    grad_v = tl.zeros((PB,), tl.float32)
    count = tl.load(counts + b)
    for j in range(count):
        i = count - 1 - j
        row = table + (b * S + i) * 3
        scale, zeta, ratio = tl.load(row), tl.load(row + 1), tl.load(row + 2)
        place = path + ((b * S + i) * C + c)[:, None] * P + p[None, :]
        state = tl.load(place, mask=here, other=0.0)
        nu = scale * state - nu_scale * source
        free = variance * zeta + 1
        denominator = tl.maximum(free, eps)
        gain = (tl.sum(means * nu[None, :, :], axis=1) - zeta * half_squares) / denominator
        weights = _weights(a + gain)
        mean = tl.sum(weights[:, None, :] * means, axis=0)
        x0 = (variance * nu + mean) / denominator

        to_x0 = -ratio * grad / denominator  # Over d: all that follows divides by it.
        to_weights = tl.sum(means * to_x0[None, :, :], axis=1)
        centred = to_weights - tl.sum(weights * to_weights, axis=0)[None, :]
        to_logits = weights * centred
        over = to_logits / denominator
        to_nu = variance * to_x0 + tl.sum(over[:, None, :] * means, axis=0)
        to_d = -tl.sum(x0 * to_x0, axis=0) - tl.sum(over * gain, axis=0)
        to_d = tl.where(free > eps, to_d, 0.0)
        grad_v += tl.sum(nu * to_x0, axis=0) + zeta * to_d
        grad_means += weights[:, None, :] * to_x0[None, :, :]
        grad_means += over[:, None, :] * (nu[None, :, :] - zeta * means)
        grad_a += to_logits
        grad = (1 + ratio) * grad + scale * to_nu
    tl.store(grad_u + every, -t_src * grad_means, mask=whole)
    tl.store(grad_logweights + mixture, grad_a, mask=inside)
    tl.store(grad_x + states, grad, mask=here)
    total = tl.sum(tl.where(p < P, grad_v, 0.0), axis=0)
    tl.store(grad_variance + b * tl.num_programs(0) + tl.program_id(0), total)
