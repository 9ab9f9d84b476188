"""Policy heads around a backbone, initialised from the teacher's output layer.

Names of layers equal the official GM-DiT checkpoints' keys. A head reads the backbone's hidden
state beside the backbone's own output layer, so any backbone with heads takes it, in whatever
parametrisation the teacher was trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from piflow_bench.api import Condition

LOGSTD_INNER = 1024
"""Inner width of the logstd head of the official ImageNet students."""
BACKBONE = "backbone."
RATES = (0.2, 4.0)
"""Least and largest number whose log is a rate of ArcFlow's policy at the start."""


class PolicyNetwork(nn.Module):
    """A backbone with a head in the place of its output layer, which stays as it is, unused."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        backbone.output_layer.requires_grad_(False)

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published student's tensors, backbone and head in one, under this network's names.

        Such files have no output layer beside the head: the backbone's own stays.
        """
        if hasattr(self.backbone, "shape_as"):  # Adapters are on the layers that the file has.
            self.backbone.shape_as(state)
        layer = self.backbone.output_layer
        name = next(n for n, module in self.backbone.named_modules() if module is layer)
        own = self.state_dict()
        kept = {k: v for k, v in own.items() if k.startswith(f"{BACKBONE}{name}.")}
        heads = {k for k in own if not k.startswith(BACKBONE)}
        return kept | {k if k in heads else f"{BACKBONE}{k}": v for k, v in state.items()}


class GMNetwork(PolicyNetwork):
    """A Gaussian mixture of velocities with K components.

    Every component starts at the teacher's velocity plus a bias of std ``noise``, shared over a
    token's elements; weights start uniform and the standard deviation at 0.05.
    """

    def __init__(
        self,
        backbone: Any,
        components: int,
        noise: float = 0.05,
        inner: int = LOGSTD_INNER,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.components = components
        self.proj_out_means = _apart(backbone, components, noise, seed)
        self.proj_out_logweights = _zeros(backbone.output_layer, backbone.elements * components)
        logstds = nn.Sequential(
            nn.SiLU(), nn.Linear(backbone.embedding_dim, inner), nn.SiLU(), nn.Linear(inner, 1)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            logstds[1].reset_parameters()  # type: ignore[operator]
        nn.init.zeros_(logstds[3].weight)  # type: ignore[arg-type]
        nn.init.constant_(logstds[3].bias, torch.tensor(0.05, device="cpu").log().item())  # type: ignore[arg-type]
        self.proj_out_logstds = logstds

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> dict[str, Tensor]:
        """u-space ``means (B, K, C, *s), logweights (B, K, 1, *s), logstds (B, 1, ...)``."""
        k, backbone = self.components, self.backbone
        hidden, embedding = backbone.trunk(x, t, condition)
        means = backbone.velocity(backbone.project(self.proj_out_means, hidden, k), x, t)
        logweights = backbone.project(self.proj_out_logweights, hidden, k).log_softmax(1)
        # The embedding is detached: one scalar per sample must not pull on the shared trunk.
        logstds = self.proj_out_logstds(embedding.detach())
        return {
            "means": means,
            "logweights": logweights,
            "logstds": logstds.reshape(len(logstds), *(1,) * (means.ndim - 1)),
        }


class ArcNetwork(PolicyNetwork):
    """K velocities, all but the first with a rate at which they grow.

    They start as a mixture's do; rates start apart, as logs of numbers between 0.2 and 4 that are
    evenly spaced as logs (the official start).
    """

    def __init__(self, backbone: Any, components: int, noise: float = 0.05, seed: int = 0) -> None:
        super().__init__(backbone)
        self.components, elements = components, backbone.elements
        self.proj_out_means = _apart(backbone, components, noise, seed)
        self.proj_out_logweights = _zeros(backbone.output_layer, elements * components)
        self.proj_out_loggamma = _zeros(backbone.output_layer, elements * (components - 1))
        start = torch.linspace(*(math.log(gamma) for gamma in RATES), components - 1)
        with torch.no_grad():
            self.proj_out_loggamma.bias.copy_(start.repeat(elements))

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> dict[str, Tensor]:
        """u-space ``means (B, K, C, *s), logweights (B, K, 1, *s), rates (B, K - 1, 1, *s)``."""
        k, backbone = self.components, self.backbone
        hidden, _ = backbone.trunk(x, t, condition)
        return {
            "means": backbone.velocity(backbone.project(self.proj_out_means, hidden, k), x, t),
            "logweights": backbone.project(self.proj_out_logweights, hidden, k).log_softmax(1),
            "rates": backbone.project(self.proj_out_loggamma, hidden, k - 1),
        }


class DXNetwork(PolicyNetwork):
    """N estimates, each the teacher's velocity at first; of a polynomial all but the first 0."""

    def __init__(self, backbone: Any, estimates: int, polynomial: bool = False) -> None:
        super().__init__(backbone)
        self.components, elements = estimates, backbone.elements
        self.polynomial = polynomial
        self.proj_out_2 = _repeated(backbone.output_layer, elements, estimates)
        if polynomial:
            layer = self.proj_out_2
            with torch.no_grad():
                for value in (layer.weight, layer.bias):
                    value.reshape(elements, estimates, -1, *value.shape[1:])[:, 1:] = 0

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> dict[str, Tensor]:
        """u-space estimates ``output (B, N, C, *spatial)``."""
        backbone = self.backbone
        hidden, _ = backbone.trunk(x, t, condition)
        output = backbone.project(self.proj_out_2, hidden, self.components)
        if not self.polynomial:
            return {"output": backbone.velocity(output, x, t)}
        # Of a polynomial in time the first coefficient is a velocity, the others are differences.
        first = backbone.velocity(output[:, :1], x, t)
        zero = backbone.velocity(torch.zeros_like(output[:, 1:]), x, t)
        return {"output": torch.cat([first, backbone.velocity(output[:, 1:], x, t) - zero], 1)}


def _like(layer: nn.Module, outputs: int) -> Any:
    """A layer of the same kind with another number of outputs; without values where it has none."""
    device = "meta" if layer.weight.is_meta else None  # type: ignore[union-attr]
    if isinstance(layer, nn.Conv2d):
        sizes: Any = (layer.kernel_size, layer.stride, layer.padding)
        return nn.Conv2d(layer.in_channels, outputs, *sizes, device=device)
    assert isinstance(layer, nn.Linear)
    return nn.Linear(layer.in_features, outputs, device=device)


def _zeros(layer: nn.Module, outputs: int) -> Any:
    """A layer of the same kind with another number of outputs, all 0."""
    made = _like(layer, outputs)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def _apart(backbone: Any, k: int, noise: float, seed: int) -> Any:
    """The output layer k times, told apart by biases of std ``noise``, one a token's elements."""
    layer = _repeated(backbone.output_layer, backbone.elements, k)
    generator = torch.Generator().manual_seed(seed)
    jitter = noise * torch.randn(k * backbone.channels, generator=generator)
    with torch.no_grad():
        layer.bias += jitter.repeat(backbone.elements).to(layer.bias.device)
    return layer


def _repeated(layer: nn.Module, elements: int, k: int) -> Any:
    """The layer with its outputs repeated k times, laid out (elements, k, C)."""
    wide = _like(layer, layer.weight.shape[0] * k)  # type: ignore[union-attr]
    with torch.no_grad():
        for source, target in ((layer.weight, wide.weight), (layer.bias, wide.bias)):
            channels = source.reshape(elements, 1, -1, *source.shape[1:])  # type: ignore[operator, index]
            target.copy_(channels.expand(-1, k, *channels.shape[2:]).reshape(target.shape))
    return wide
