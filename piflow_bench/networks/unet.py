"""U-Nets: DDPM++, NCSN++, ADM and diffusers' DDPM networks as one class, told apart by facts.

Names of weights follow the networks of EDM (arXiv 2206.00364, appendix F.2): ``enc.32x32_conv``,
``enc.32x32_block0.norm0``, ``dec.8x8_in0``, ... with rows x columns of the map in every name.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding as look_up
from torch.nn.functional import pad, silu
from torch.utils.checkpoint import checkpoint

from piflow_bench.contracts.condition import Classes, Condition
from piflow_bench.errors import UserError
from piflow_bench.networks.unet_architecture import Architecture
from piflow_bench.networks.unet_blocks import (
    Block,
    Enlarge,
    Residual,
    Shrink,
    frequencies,
    group_norm,
    waves,
    zero,
)


class Fourier(nn.Module):
    """Random frequencies of times: the cosines and sines of ``2 pi f t``."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))


class UNet(nn.Module):
    """A U-Net on ``(B, channels, height, width)``.

    Args:
        architecture: its facts.
        time_scale: what t in [0, 1] is multiplied by to be the network's own noise condition.
        time_offset: what is added to it then.

    :meth:`forward`, :meth:`trunk` and :meth:`features` take times t. :meth:`raw` takes the
    network's own noise condition, for one that is no line in t (EDM's is ln(sigma) / 4); with a
    scale of 1 and an offset of 0 all of them do. A duration t - r is scaled as t in all of them.
    """

    checkpointing = False
    """Whether a block's activations are recomputed in the backward pass instead of kept."""
    elements = 1
    """Spatial elements that a place of the hidden map stands for."""

    def __init__(
        self, architecture: Architecture, time_scale: float = 1.0, time_offset: float = 0.0
    ) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.time_scale, self.time_offset = time_scale, time_offset
        self.channels, self.dim = a.channels, a.widths[0]
        self.embedding_dim = a.embedding_dim or 4 * a.widths[0]
        features = a.time_channels or a.widths[0]
        self.map_noise = Fourier(features) if a.fourier else None
        rows = a.classes + (a.classes > 0 and a.null_weights)
        into = features if a.labels_first else self.embedding_dim
        self.map_label = nn.Linear(rows, into, bias=a.labels_first) if rows else None
        self.map_layer0 = nn.Linear(features, self.embedding_dim)
        self.map_layer1 = nn.Linear(self.embedding_dim, self.embedding_dim)
        self.map_duration: nn.ModuleList | None = None
        self.map_guidance: nn.ModuleList | None = None
        self.enc, skips = self._encoder()
        self.dec = self._decoder(skips)
        self.out_norm = group_norm(self.dim, a.groups, a.eps)
        self.out_conv = nn.Conv2d(self.dim, a.channels, 3, padding=1)
        zero(self.out_conv)

    # ------------------------------------------------------------------ layers

    def _block(self, inputs: int, outputs: int, attends: bool = False, way: str = "") -> Block:
        a = self.architecture
        heads = (outputs // a.head_channels if a.head_channels else 1) if attends else 0
        if attends and (heads == 0 or outputs % heads):
            raise UserError(f"{outputs} channels do not make heads of {a.head_channels} channels")
        return Block(
            inputs, outputs, self.embedding_dim, heads, a.groups, a.eps, a.adaptive, a.skip_scale,
            way, a.taps, a.project_resampled and way != "",
        )  # fmt: skip

    def _encoder(self) -> tuple[nn.ModuleDict, list[int]]:
        """Its layers, and the channels of the maps that the decoder is given."""
        a, layers = self.architecture, nn.ModuleDict()
        width, shrunk = a.stem or a.widths[0], a.channels
        layers[f"{a.name(0)}_conv"] = nn.Conv2d(a.channels, width, 3, padding=1)
        skips, self._shapes = [width], [(width, *a.size(0))]
        for level, outputs in enumerate(a.widths):
            if level and a.resampling == "block":
                layers[f"{a.name(level)}_down"] = self._block(width, width, way="down")
                self._shapes.append((width, *a.size(level)))
            elif level:
                layers[f"{a.name(level)}_down"] = Shrink(width, a.asymmetric)
            if level and a.residual_input:
                layers[f"{a.name(level)}_aux_residual"] = Residual(shrunk, width, a.taps)
                shrunk = width
            skips += [width] if level else []
            for i in range(a.blocks):
                block = self._block(width, outputs, level in a.attention)
                layers[f"{a.name(level)}_block{i}"] = block
                width = outputs
                skips.append(width)
                self._shapes.append((width, *a.size(level)))
        return layers, skips

    def _decoder(self, skips: list[int]) -> nn.ModuleDict:
        a, layers = self.architecture, nn.ModuleDict()
        last = len(a.widths) - 1
        width = a.widths[last]
        attention = a.attention if a.attention_up is None else a.attention_up
        if a.middle != "none":
            first = self._block(width, width, a.middle == "attention")
            if a.middle_groups is not None and a.middle == "attention":
                first.norm2 = group_norm(width, a.middle_groups, a.eps)
            layers[f"{a.name(last)}_in0"] = first
            layers[f"{a.name(last)}_in1"] = self._block(width, width)
            self._shapes += [(width, *a.size(last))] * 2
        for level in range(last, -1, -1):
            if level < last:
                layers[f"{a.name(level)}_up"] = (
                    self._block(width, width, way="up")
                    if a.resampling == "block"
                    else Enlarge(width)
                )
            for i in range(a.blocks + 1):
                attends = level in attention and (i == a.blocks or not a.attention_last)
                block = self._block(width + skips.pop(), a.widths[level], attends)
                layers[f"{a.name(level)}_block{i}"] = block
                width = a.widths[level]
        return layers

    # ------------------------------------------------------------------ the shape of a backbone

    @property
    def output_layer(self) -> nn.Conv2d:
        """The convolution that reads the hidden state out."""
        return self.out_conv

    def project(self, layer: nn.Module, hidden: Tensor, n: int) -> Tensor:
        """``(B, n, C', H, W)`` by a layer like the output layer with ``n * C'`` outputs."""
        return layer(hidden).unflatten(1, (n, -1))

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Outputs as they are."""
        return output

    def add_duration(self) -> None:
        """Add the second time input; its last layer is zero: the network's function is unchanged.

        Its first layer starts as the first time's, as a DiT's does.
        """
        self.map_duration = self._further_input()

    def add_guidance(self, inputs: int) -> None:
        """Add inputs for guidance, as the second time is."""
        self.map_guidance = nn.ModuleList(self._further_input() for _ in range(inputs))

    def _further_input(self) -> nn.ModuleList:
        first, last = copy.deepcopy(self.map_layer0), copy.deepcopy(self.map_layer1)
        zero(last)
        return nn.ModuleList([first, last])

    @property
    def depth(self) -> int:
        """Residual blocks of the encoder and between it and the decoder."""
        return len(self._shapes) - 1

    def feature_shape(self, depth: int) -> tuple[int, int, int]:
        """Channels, rows and columns of :meth:`features`."""
        return self._shapes[depth]

    def features(
        self, x: Tensor, t: Tensor, condition: Condition, duration: Tensor | None, depth: int
    ) -> Tensor:
        """Map ``(B, C', h, w)`` after ``depth`` residual blocks; later ones are not computed."""
        embedding = self._embed(self._units(t), condition, duration, None)
        return self._encode(x, embedding, depth)[0]

    def trunk(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden map after the last activation, and the embedding: ``(B, dim, H, W), (B, E)``."""
        return self._trunk(x, self._units(t), condition, duration, guidance)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Output ``(B, C, H, W)`` at times t ``(B,)`` in [0, 1]."""
        return self.raw(x, self._units(t), condition, duration, guidance)

    def raw(
        self,
        x: Tensor,
        noise: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """:meth:`forward` at the network's own noise condition ``(B,)``, whatever t it is."""
        hidden, _ = self._trunk(x, noise, condition, duration, guidance)
        return self.project(self.out_conv, hidden, 1)[:, 0]

    # ------------------------------------------------------------------ computation

    def _units(self, t: Tensor) -> Tensor:
        return self.time_offset + t * self.time_scale

    def _waves(self, noise: Tensor) -> Tensor:
        """Features of noise conditions ``(B,)``, computed in float32 at least."""
        a, channels = self.architecture, self.map_layer0.in_features
        dtype = torch.promote_types(noise.dtype, torch.float32)
        if self.map_noise is not None:
            frequency = 2 * math.pi * self.map_noise.freqs.to(dtype)
        else:
            frequency = frequencies(channels, a.frequency_shift, dtype, noise.device)
        return waves(noise, frequency, a.sines_first).to(self.map_layer0.weight.dtype)

    def _labels(self, condition: Classes) -> Tensor | float:
        """What the labels add, at either end of the perceptron."""
        layer = self.map_label
        if layer is None:
            return 0.0
        table = layer.weight.T if self.architecture.null_weights else pad(layer.weight, (0, 1)).T
        if not self.architecture.labels_first:
            return look_up(condition.labels, table)
        return look_up(condition.labels, table) * math.sqrt(layer.in_features) + layer.bias

    def _embed(
        self, noise: Tensor, condition: Any, duration: Tensor | None, guidance: Tensor | None
    ) -> Tensor:
        first, labels = self.architecture.labels_first, self._labels(condition)
        h = self._waves(noise) + (labels if first else 0.0)
        embedding = self.map_layer1(silu(self.map_layer0(h))) + (0.0 if first else labels)
        if self.map_duration is not None and duration is not None:
            embedding = embedding + self._further(self.map_duration, duration)
        if self.map_guidance is not None and guidance is not None:
            for layers, value in zip(self.map_guidance, guidance.T, strict=True):
                embedding = embedding + self._further(layers, value)
        return silu(embedding)

    def _further(self, layers: Any, value: Tensor) -> Tensor:
        """What a further input ``(B,)`` in [0, 1] adds to the embedding."""
        first, last = layers
        added: Tensor = last(silu(first(self._waves(self._units(value)))))
        return added

    def _through(self, layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if not isinstance(layer, Block):
            return layer(h)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, h, embedding, use_reentrant=False)
        return layer(h, embedding)

    def _encode(self, x: Tensor, embedding: Tensor, depth: int) -> tuple[Tensor, list[Tensor]]:
        """Map after ``depth`` residual blocks, and the maps that the decoder is given."""
        x = shrunk = 2 * x - 1 if self.architecture.centred else x
        (_, stem), *layers = self.enc.items()
        h = stem(x)
        skips = [h]
        layers += [(name, layer) for name, layer in self.dec.items() if "_in" in name]
        for name, layer in layers:
            if isinstance(layer, Residual):  # It belongs to the block before it.
                h = shrunk = skips[-1] = (h + layer(shrunk)) * math.sqrt(0.5)
                continue
            if depth == 0:
                break
            h = self._through(layer, h, embedding)
            if "_in" not in name:
                skips.append(h)
            depth -= isinstance(layer, Block)
        return h, skips

    def _trunk(
        self,
        x: Tensor,
        noise: Tensor,
        condition: Condition,
        duration: Tensor | None,
        guidance: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        embedding = self._embed(noise, condition, duration, guidance)
        h, skips = self._encode(x, embedding, self.depth)
        for name, layer in self.dec.items():
            if "_in" in name:
                continue
            if "_block" in name:
                h = torch.cat([h, skips.pop()], dim=1)
            h = self._through(layer, h, embedding)
        return silu(self.out_norm(h)), embedding
