r"""The process that a network was trained on, :math:`z = \alpha x_0 + \sigma\varepsilon`.

Every process is the flow seen through another time and another scale. With flow time
:math:`t = \sigma / (\alpha + \sigma)` the state of the flow is :math:`x_t = z / (\alpha + \sigma)`,
so each schedule here has, as functions of tensors of any shape, in float64:

- ``t(time)`` and ``time(t)``: between the network's own time and flow time, inverse to each other;
- ``scale(t)``: alpha + sigma, so that ``z = scale(t) x_t``;
- ``covers(device)``: the flow times (t_low, t_high) of its first and last noise, two scalars.

``time`` takes flow times outside ``covers`` as the nearest covered one, ``t`` likewise network
times outside their range. What becomes of the velocity there: :mod:`.parametrisation`.
All is computed where the tensors are, from numbers: no device is waited for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from piflow_bench.errors import UserError, nearest

F64 = torch.float64
BETAS = ("linear", "scaled_linear", "cosine", "given")


def norm(t: Tensor) -> Tensor:
    """``sqrt((1 - t)^2 + t^2)``: the standard deviation of x_t for data of unit variance."""
    return torch.hypot(1 - t, t)


@dataclass(frozen=True)
class Flow:
    """Rectified flow (arXiv 2209.03003): alpha = 1 - t, sigma = t; all of [0, 1] is covered.

    The network's time is ``units * t``, or ``units * (1 - t)`` where it runs from noise to data
    (``reverse``: SiT, arXiv 2401.08740). ``shift`` is that of the grid the network is sampled on
    (:func:`piflow_bench.flow.time_grid`); networks are told the shifted time, so it changes no
    conversion.
    """

    units: float = 1.0
    reverse: bool = False
    shift: float = 1.0

    def __post_init__(self) -> None:
        for key in ("units", "shift"):
            if not 0 < getattr(self, key) < math.inf:
                raise UserError(f"{key}={getattr(self, key)}: must be a number above 0")

    def covers(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Flow times 0 and 1."""
        return torch.zeros((), dtype=F64, device=device), torch.ones((), dtype=F64, device=device)

    def t(self, time: Tensor) -> Tensor:
        """Flow time of the network's time, which runs from 0 to ``units``."""
        share = (time.to(F64) / self.units).clamp(0, 1)
        return 1 - share if self.reverse else share

    def time(self, t: Tensor) -> Tensor:
        """The network's time at flow time t."""
        t = t.to(F64).clamp(0, 1)
        return self.units * (1 - t if self.reverse else t)

    def scale(self, t: Tensor) -> Tensor:
        """1: z is the flow's own state."""
        return torch.ones_like(t, dtype=F64)


@dataclass(frozen=True)
class VP:
    """Variance preserving with discrete betas: alpha^2 = prod(1 - beta), alpha^2 + sigma^2 = 1.

    The network's time is the index 0 .. steps - 1 of its beta. Between indices flow time is linear
    in the index: exact at whole ones, increasing, and inverted exactly. Covered is flow time from
    index 0 (.0099 for DDPM, .028 for Stable Diffusion) to index ``steps - 1`` (.9937 and .936).

    ``betas``: linear from ``first`` to ``last`` (DDPM, arXiv 2006.11239; DiT), scaled_linear (their
    roots are linear: Stable Diffusion), cosine (Nichol and Dhariwal, arXiv 2102.09672, eq. 17,
    clipped at .999; without ``first`` and ``last``), or ``given`` (copied to the device at every
    use). ``zero_snr`` rescales alpha so that its last is 0 (Lin et al., arXiv 2305.08891,
    algorithm 1): t = 1 is then covered.
    """

    betas: str = "linear"
    first: float = 1e-4
    last: float = 0.02
    steps: int = 1000
    given: tuple[float, ...] = ()
    zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.betas not in BETAS:
            raise UserError(f"betas={self.betas}: unknown; {nearest(self.betas, list(BETAS))}")
        if self.steps < 2:
            raise UserError(f"steps={self.steps}: must be at least 2")
        if self.betas == "given" and len(self.given) != self.steps:
            raise UserError(f"steps={self.steps}: {len(self.given)} betas are given")
        ends = self.given or (self.first, self.last)
        if not all(0 < beta < 1 for beta in ends):
            raise UserError(f"betas from {ends[0]} to {ends[-1]}: all must lie between 0 and 1")

    def log_alpha_bar(self, device: torch.device | str = "cpu") -> Tensor:
        """``log prod(1 - beta)`` at each index ``(steps,)``, falling; -inf at zero SNR."""
        if self.betas == "given":
            kept = torch.log1p(-torch.tensor(self.given, dtype=F64, device=device))
        elif self.betas == "cosine":
            raw = torch.arange(self.steps + 1, dtype=F64, device=device) / self.steps
            bar = torch.cos((raw + 0.008) / 1.008 * (math.pi / 2)).square()
            kept = (bar[1:] / bar[:-1]).clamp(min=1 - 0.999).log()
        else:
            root = 2 if self.betas == "scaled_linear" else 1
            ends = self.first ** (1 / root), self.last ** (1 / root)
            kept = torch.log1p(
                -(torch.linspace(*ends, self.steps, dtype=F64, device=device) ** root)
            )
        log = kept.cumsum(0)
        if not self.zero_snr:
            return log
        alpha = (log / 2).exp()
        return 2 * ((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))).log()

    def table(self, device: torch.device | str = "cpu") -> Tensor:
        """Flow time at each index ``(steps,)``, rising."""
        log = self.log_alpha_bar(device)
        # expm1, as 1 - alpha^2 cancels where there is little noise.
        alpha, sigma = (log / 2).exp(), (-torch.expm1(log)).sqrt()
        return sigma / (alpha + sigma)

    def covers(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Flow times of the first and the last index."""
        table = self.table(device)
        return table[0], table[-1]

    def t(self, time: Tensor) -> Tensor:
        """Flow time of an index, whole or not."""
        table = self.table(time.device)
        time = time.to(F64).clamp(0, self.steps - 1)
        i = time.detach().floor().long().clamp(max=self.steps - 2)
        return table[i] + (time - i) * (table[i + 1] - table[i])

    def time(self, t: Tensor) -> Tensor:
        """The index at flow time t, whole or not."""
        table = self.table(t.device)
        t = t.to(F64).clamp(table[0], table[-1])
        i = (torch.searchsorted(table, t.detach(), right=True) - 1).clamp(0, self.steps - 2)
        return i + (t - table[i]) / (table[i + 1] - table[i])

    def scale(self, t: Tensor) -> Tensor:
        """``alpha + sigma``, between 1 and sqrt 2."""
        return 1 / norm(t.to(F64))


@dataclass(frozen=True)
class EDM:
    """Karras et al. (arXiv 2206.00364): alpha = 1, sigma in [sigma_min, sigma_max].

    The network's time is c_noise = log(sigma) / 4 (table 1). Covered is t = sigma / (1 + sigma),
    from .002 to .9877 with the defaults.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise UserError(
                f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: must be 0 < min < max"
            )

    def covers(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Flow times of sigma_min and sigma_max."""
        low, high = (s / (1 + s) for s in (self.sigma_min, self.sigma_max))
        return (
            torch.full((), low, dtype=F64, device=device),
            torch.full((), high, dtype=F64, device=device),
        )

    def t(self, time: Tensor) -> Tensor:
        """Flow time of c_noise."""
        low, high = (math.log(s) / 4 for s in (self.sigma_min, self.sigma_max))
        return torch.sigmoid(4 * time.to(F64).clamp(low, high))

    def time(self, t: Tensor) -> Tensor:
        """c_noise at flow time t."""
        return torch.logit(t.to(F64).clamp(*self.covers(t.device))) / 4

    def scale(self, t: Tensor) -> Tensor:
        """``1 + sigma = 1 / (1 - t)``; infinite at t = 1, which is not covered."""
        return 1 / (1 - t.to(F64))


Schedule = Flow | VP | EDM
"""What :mod:`.parametrisation` takes."""
