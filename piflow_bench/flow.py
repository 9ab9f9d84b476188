r"""The mathematics of flows: interpolation, conversions, time warps, schedules, solvers, guidance.

Convention: :math:`x_t = (1-t)\,x_0 + t\,\varepsilon` with :math:`\varepsilon \sim N(0, I)` and
velocity :math:`u = dx/dt = \varepsilon - x_0`, so **t = 1 is noise** and t = 0 is data.
Times are tensors of shape ``(B,)`` or floats in [0, 1]; states have shape ``(B, *sample)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""A velocity field ``u(x, t)``: ``(B, *sample), (B,) -> (B, *sample)``."""


def expand(t: Tensor | float, like: Tensor) -> Tensor:
    """Times ``(B,)`` (or a number) reshaped to broadcast against states ``(B, *sample)``."""
    t = torch.as_tensor(t, dtype=like.dtype, device=like.device)
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t


# ---------------------------------------------------------------------------- interpolation


def interpolate(x0: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
    """The state ``x_t = (1 - t) x0 + t noise``."""
    t = expand(t, x0)
    return (1 - t) * x0 + t * noise


def x0_from_velocity(x: Tensor, u: Tensor, t: Tensor | float) -> Tensor:
    """Data estimate ``x0 = x_t - t u``."""
    return x - expand(t, x) * u


def noise_from_velocity(x: Tensor, u: Tensor, t: Tensor | float) -> Tensor:
    """Noise estimate ``eps = x_t + (1 - t) u``."""
    return x + (1 - expand(t, x)) * u


def velocity_from_x0(x: Tensor, x0: Tensor, t: Tensor | float, eps: float = 1e-6) -> Tensor:
    """Velocity ``u = (x_t - x0) / t``, with t clamped at ``eps``."""
    return (x - x0) / expand(t, x).clamp(min=eps)


def velocity_from_noise(x: Tensor, noise: Tensor, t: Tensor | float, eps: float = 1e-6) -> Tensor:
    """Velocity ``u = (eps - x_t) / (1 - t)``, with 1 - t clamped at ``eps``."""
    return (noise - x) / (1 - expand(t, x)).clamp(min=eps)


# ---------------------------------------------------------------------------- time


def warp(raw: Tensor, shift: float) -> Tensor:
    """Raw time to flow time, ``t = m raw / (1 + (m - 1) raw)``; ``shift`` m = 1 is the identity."""
    return shift * raw / (1 + (shift - 1) * raw)


def unwarp(t: Tensor, shift: float) -> Tensor:
    """Flow time to raw time, the inverse of :func:`warp`."""
    return t / (shift + (1 - shift) * t)


def time_grid(
    steps: int, shift: float = 1.0, dtype: torch.dtype = torch.float32, terminal: float = 0.0
) -> Tensor:
    """Times ``1 = t_0 > ... > t_steps = 0``, uniform in raw time, shape ``(steps + 1,)``.

    With ``terminal`` all but the last are stretched so that the one before it is that (Qwen-Image's
    schedule, .02); of a single step nothing is left to stretch.
    """
    times = warp(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)
    if terminal and steps > 1:
        times[:-1] = 1 - (1 - times[:-1]) * (1 - terminal) / (1 - times[-2])
    return times.to(dtype)


@dataclass(frozen=True)
class FlowMapStep:
    """One network evaluation of a few-step student.

    The student maps the state at ``t_src`` to ``t_dst``; where ``m < 1`` fresh noise then lifts it
    to ``t_next``. ``raw_src`` and ``raw_dst`` are the unwarped ends of the deterministic part.
    """

    t_src: float
    t_dst: float
    t_next: float
    m: float
    raw_src: float
    raw_dst: float


def flow_map_schedule(
    nfe: int, shift: float = 1.0, final_step_scale: float = 1.0, h: float = 0.0
) -> list[FlowMapStep]:
    """The FlowMapSDE schedule (pi-Flow, arXiv 2510.14974; METHODS: sampling).

    ``final_step_scale`` is the length of the last step over the others'. ``h`` is the amount of
    renoising: 0 deterministic, infinity the consistency way (roll to data, then renoise).
    """
    s = final_step_scale
    base = 1 / (nfe - 1 + s)
    raw = [max(1 - i * base, 0.0) for i in range(nfe)]

    def warped(value: float) -> float:
        return shift * value / (1 + (shift - 1) * value)

    def unwarped(value: float) -> float:
        return value / (shift + (1 - shift) * value)

    times = [warped(r) for r in raw] + [0.0]
    steps = []
    for i in range(nfe):
        src, nxt = times[i], times[i + 1]
        if h == 0:
            m = 1.0
        else:
            ratio = nxt * (1 - src) / (src * (1 - nxt))
            m = 0.0 if math.isinf(h) or ratio == 0 else ratio ** (h * h)
        # The golden schedules report m = 0 for the step that ends at data: nothing is renoised.
        dst = nxt * m / ((1 - nxt) + nxt * m)
        steps.append(FlowMapStep(src, dst, nxt, m, raw[i], unwarped(dst)))
    return steps


def renoise(x_dst: Tensor, step: FlowMapStep, noise: Tensor) -> Tensor:
    """Lift the state from ``t_dst`` to ``t_next`` with fresh noise; exact for exact flow maps."""
    scale = (1 - step.t_next) + step.t_next * step.m
    return scale * x_dst + step.t_next * math.sqrt(max(1 - step.m**2, 0.0)) * noise


# ---------------------------------------------------------------------------- guidance


def guide(conditional: Tensor, unconditional: Tensor, w: float) -> Tensor:
    """Classifier-free guidance ``u_c + (w - 1)(u_c - u_0)``; w = 1 is off."""
    return conditional + (w - 1) * (conditional - unconditional)


def rescaled(guided: Tensor, conditional: Tensor, patch: int = 2) -> Tensor:
    """A guided velocity ``(B, C, H, W)`` with the norm of the unguided one in every patch.

    The rule of diffusers' pipeline for Qwen-Image, whose tokens are patches of 2x2: another field
    than plain guidance. A guided velocity of zero, which has no direction, stays zero, and so does
    one whose square is; there the gradient is that of scaling by zero.
    """

    def norms(u: Tensor) -> Tensor:
        batch, _, height, width = u.shape
        patches = u.reshape(batch, -1, height // patch, patch, width // patch, patch)
        squares = patches.square().sum((1, 3, 5), keepdim=True)
        # The root has no derivative at zero.
        return torch.where(squares > 0, squares.where(squares > 0, 1).sqrt(), 0)

    batch, _, height, width = guided.shape
    norm = norms(guided)
    scale = torch.where(norm > 0, norms(conditional) / norm.where(norm > 0, 1), 0)
    scale = scale.clamp(max=torch.finfo(guided.dtype).max)
    scale = scale.expand(batch, 1, height // patch, patch, width // patch, patch)
    return guided * scale.reshape(batch, 1, height, width)


# ---------------------------------------------------------------------------- ODE solvers
# Every solver integrates from times[0] (noise) to times[-1] (data) and is exact where the field is
# straight. `velocity(x, t)` takes t of shape (B,), where x is; the grid itself may lie elsewhere.


def _at(t: Tensor, x: Tensor) -> Tensor:
    return t.to(x).expand(x.shape[0])


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Euler's method (DDIM in flow form), first order; ``len(times) - 1`` evaluations."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = x + (s - t).to(x.dtype) * velocity(x, _at(t, x))
    return x


def heun(velocity: Velocity, x: Tensor, times: Tensor, euler_first: bool = False) -> Tensor:
    """Heun's method, second order; the step to t = 0 is Euler's, so ``2 N - 1`` evaluations.

    With ``euler_first`` the first step is Euler's too: ``2 N - 2`` evaluations, an even number.
    """
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        u = velocity(x, _at(t, x))
        end = x + (s - t).to(x.dtype) * u
        if s > 0 and not (euler_first and i == 0):
            end = x + (s - t).to(x.dtype) * (u + velocity(end, _at(s, x))) / 2
        x = end
    return x


def _half_log_snr(t: Tensor) -> Tensor:
    return torch.log((1 - t) / t)


def _clamp_start(times: Tensor) -> list[Tensor]:
    # lambda(1) is -inf; clamping the first time costs 1e-4 of the path and keeps the multistep
    # formulas finite. The state itself is not changed.
    times = times.to(torch.float64)
    return [t.clamp(max=1 - 1e-4) for t in times]


def dpm_solver_pp_2m(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095) in flow form; second order, one evaluation a step.

    The first step and the step to t = 0 are first order.
    """
    grid = _clamp_start(times)
    previous: tuple[Tensor, Tensor] | None = None  # (x0 estimate, lambda step)
    for i in range(len(grid) - 1):
        t, s = grid[i], grid[i + 1]
        x0 = x0_from_velocity(x, velocity(x, _at(times[i], x)), _at(times[i], x))
        if s <= 0:
            return x0
        h = _half_log_snr(s) - _half_log_snr(t)
        d = x0
        if previous is not None:
            last, h_last = previous
            d = x0 + (h / (2 * h_last)).to(x.dtype) * (x0 - last)
        x = (s / t).to(x.dtype) * x - ((1 - s) * torch.expm1(-h)).to(x.dtype) * d
        previous = (x0, h)
    return x


def unipc_2(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """UniPC-2 with the bh2 variant and corrector (arXiv 2302.04867), data prediction.

    The evaluation at a predicted point serves the corrector and the next step: one evaluation a
    step. No corrector on the final step.
    """
    grid = _clamp_start(times)

    def data(state: Tensor, i: int) -> Tensor:
        return x0_from_velocity(state, velocity(state, _at(times[i], x)), _at(times[i], x))

    d_last: Tensor | None = None
    h_last = torch.zeros((), dtype=torch.float64)
    d = data(x, 0)
    for i in range(len(grid) - 1):
        t, s = grid[i], grid[i + 1]
        if s <= 0:
            return d
        h = _half_log_snr(s) - _half_log_snr(t)
        b = torch.expm1(-h)
        scale = ((1 - s) * b).to(x.dtype)
        base = (s / t).to(x.dtype) * x - scale * d
        slope = torch.zeros_like(x)
        r1 = torch.zeros((), dtype=torch.float64)
        if d_last is not None:
            r1 = -h_last / h
            slope = (d_last - d) / r1.to(x.dtype)
        predicted = base - scale * slope / 2
        if i == len(grid) - 2:
            return predicted
        d_next = data(predicted, i + 1)
        if d_last is None:
            x = base - scale * (d_next - d) / 2
        else:
            # Solve [[1, 1], [r1, 1]] rho = [b1, b2] by hand.
            k1 = b / -h - 1
            b1 = k1 / b
            b2 = 2 * (k1 / -h - 0.5) / b
            rho1 = (b1 - b2) / (1 - r1)
            rho2 = b1 - rho1
            x = base - scale * (rho1.to(x.dtype) * slope + rho2.to(x.dtype) * (d_next - d))
        d_last, d, h_last = d, d_next, h
    return x


def adams(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Adams' predictor of second and corrector of third order on any grid.

    The evaluation at a predicted point serves the corrector and the next step: one evaluation a
    step. No corrector on the final step, a trapezoid on the first. With h_k = t_{k+1} - t_k the
    field is a line through the last two evaluations when predicted, a parabola through three when
    corrected (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, III.5).
    """
    grid = times.to(torch.float64)
    u = velocity(x, _at(grid[0], x))
    u_last: Tensor | None = None
    h_last = grid[0]  # Of no step yet: read from the second one on.
    for i, (t, s) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        h = s - t
        mean = u if u_last is None else u + (h / (2 * h_last)).to(x.dtype) * (u - u_last)
        predicted = x + h.to(x.dtype) * mean
        if i == len(grid) - 2:
            return predicted
        u_next = velocity(predicted, _at(s, x))
        mean = (u + u_next) / 2
        if u_last is not None:
            bend = u_next - u - (h / h_last).to(x.dtype) * (u - u_last)
            mean = mean - (h / (6 * (h + h_last))).to(x.dtype) * bend
        x = x + h.to(x.dtype) * mean
        u, u_last, h_last = u_next, u, h
    return x


SOLVERS: dict[str, Callable[[Velocity, Tensor, Tensor], Tensor]] = {
    "euler": euler,
    "heun": heun,
    "dpmpp": dpm_solver_pp_2m,
    "unipc": unipc_2,
    "adams": adams,
}


def solver_evaluations(solver: str, steps: int) -> int:
    """Velocity evaluations that ``solver`` needs for ``steps`` steps down to t = 0."""
    return 2 * steps - 1 if solver == "heun" else steps
