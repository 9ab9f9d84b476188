"""Policy heads on a velocity backbone, initialised from the teacher's output layer.

Attribute names equal the official GM-DiT checkpoints' keys. A head is layers on the network plus a
readout function, so any backbone with the harness's common shape takes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LOGSTD_INNER = 1024
"""Inner width of the logstd head of the official ImageNet students."""


def gm_readout(network: Any, hidden: Tensor, embedding: Tensor) -> dict[str, Tensor]:
    """u-space mixture ``means (B, K, C, *s), logweights (B, K, 1, *s), logstds (B, 1, ...)``."""
    k = network.components
    means = network.assemble(network.proj_out_means(hidden), k)
    logweights = network.assemble(network.proj_out_logweights(hidden), k).log_softmax(1)
    # The embedding is detached: one scalar per sample must not pull on the shared trunk.
    logstds = network.proj_out_logstds(embedding.detach())
    return {
        "means": means,
        "logweights": logweights,
        "logstds": logstds.reshape(len(logstds), *(1,) * (means.ndim - 1)),
    }


def dx_readout(network: Any, hidden: Tensor, embedding: Tensor) -> dict[str, Tensor]:
    """u-space estimates ``output (B, N, C, *spatial)``."""
    return {"output": network.assemble(network.proj_out_2(hidden), network.components)}


def _repeated(layer: nn.Linear, elements: int, k: int) -> nn.Linear:
    """The layer with its outputs repeated k times, laid out (elements, k, C)."""
    wide = nn.Linear(layer.in_features, layer.out_features * k)
    with torch.no_grad():
        for source, target in ((layer.weight, wide.weight), (layer.bias, wide.bias)):
            channels = source.reshape(elements, 1, -1, *source.shape[1:])
            target.copy_(channels.expand(-1, k, *channels.shape[2:]).reshape(target.shape))
    return wide


def attach_gm_head(
    network: Any, components: int, noise: float = 0.05, inner: int = LOGSTD_INNER, seed: int = 0
) -> None:
    """Replace a backbone's output layer by a Gaussian-mixture head of K components (in place).

    Every component starts at the teacher's velocity plus a bias of std ``noise``, shared over a
    token's elements; weights start uniform and the standard deviation at 0.05.
    """
    teacher_layer, elements = network.proj_out_2, network.patch_elements
    means = _repeated(teacher_layer, elements, components)
    generator = torch.Generator().manual_seed(seed)
    jitter = noise * torch.randn(components * network.channels, generator=generator)
    with torch.no_grad():
        means.bias += jitter.repeat(elements)
    logweights = nn.Linear(network.dim, elements * components)
    nn.init.zeros_(logweights.weight)
    nn.init.zeros_(logweights.bias)
    logstds = nn.Sequential(
        nn.SiLU(), nn.Linear(network.dim, inner), nn.SiLU(), nn.Linear(inner, 1)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        logstds[1].reset_parameters()
    nn.init.zeros_(logstds[3].weight)
    nn.init.constant_(logstds[3].bias, torch.log(torch.tensor(0.05)).item())
    del network.proj_out_2
    network.proj_out_means, network.proj_out_logweights = means, logweights
    network.proj_out_logstds = logstds
    network.components, network.readout = components, gm_readout


def attach_dx_head(network: Any, estimates: int) -> None:
    """Replace a backbone's output layer by one with N outputs, each the teacher's (in place)."""
    network.proj_out_2 = _repeated(network.proj_out_2, network.patch_elements, estimates)
    network.components, network.readout = estimates, dx_readout


def polynomial_start(network: Any) -> None:
    """Zero the higher coefficients of a polynomial head that :func:`attach_dx_head` made."""
    layer, n = network.proj_out_2, network.components
    with torch.no_grad():
        layer.weight.reshape(network.patch_elements, n, -1, layer.in_features)[:, 1:] = 0
        layer.bias.reshape(network.patch_elements, n, -1)[:, 1:] = 0
