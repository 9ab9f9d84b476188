"""Laws of the noise level at which samples are matched or denoised."""

from __future__ import annotations

import torch
from torch import Tensor

TIME_LAWS = ("karras", "uniform", "logit-normal", "edm")


def noise_time(law: str, quantile: Tensor) -> Tensor:
    """Flow times ``(B,)`` at quantiles of a time law.

    karras: the EDM schedule (rho 7, sigma .002 to 80), t = sigma / (1 + sigma); logit-normal:
    mean 0, std 1; edm: EDM's training law, log sigma of mean -1.2 and std 1.2.
    """
    if law == "uniform":
        return quantile
    if law == "logit-normal":
        return torch.special.ndtri(quantile.double()).float().sigmoid()
    if law == "edm":
        return (-1.2 + 1.2 * torch.special.ndtri(quantile.double())).to(quantile.dtype).sigmoid()
    low, high, rho = 0.002, 80.0, 7.0
    sigma = (low ** (1 / rho) + quantile * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    return sigma / (1 + sigma)
