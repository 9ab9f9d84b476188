"""DiT (arXiv 2212.09748) with the state-dict keys of the official pi-Flow ImageNet checkpoints.

A backbone with all parts of the contract (``contracts/backbone.py``); its hidden state are tokens
``(B, T, dim)``, of which each stands for a patch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from piflow_bench.networks.embeddings import (
    Inputs,
    TimeEmbedding,
    second_time_embedding,
    sincos_2d,
)

_SCALE = 2 * (2 / math.pi) ** 0.5
_CACHED = 2**16
"""Values worked on at once: with as many more they fit a core's second-level cache."""


class PatchEmbed(nn.Module):
    """Patches ``(p, p)`` of an image as tokens ``(B, T, dim)``."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of images ``(B, C, height, width)``, row by row."""
        # A patch convolution without overlap, as a matrix product: it has a forward-mode
        # derivative everywhere and is faster for small images.
        p = self.proj.kernel_size[0]
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
        return nn.functional.linear(
            x.reshape(b, -1, c * p * p), self.proj.weight.flatten(1), self.proj.bias
        )


class ClassEmbedder(nn.Module):
    """A table of labels ``0 .. classes``, of which the last is the null class."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, dim)

    def forward(self, labels: Tensor) -> Tensor:
        """Embeddings ``(B, dim)`` of labels ``(B,)``."""
        return self.embedding_table(labels)


class _Embedder(nn.Module):
    """Time plus class; optional: a second time, as the duration t - r, and guidance."""

    def __init__(self, dim: int, classes: int, time_scale: float, time_offset: float) -> None:
        super().__init__()
        self.timestep_embedder = TimeEmbedding(dim, time_scale=time_scale, time_offset=time_offset)
        self.class_embedder = ClassEmbedder(classes, dim) if classes else None
        self.duration_embedder: TimeEmbedding | None = None
        self.guidance_embedder: Inputs | None = None

    def forward(
        self, t: Tensor, condition: Any, duration: Tensor | None, guidance: Tensor | None
    ) -> Tensor:
        embedding = self.timestep_embedder(t)
        if self.class_embedder is not None:
            embedding = embedding + self.class_embedder(condition.labels)
        if self.duration_embedder is not None and duration is not None:
            embedding = embedding + self.duration_embedder(duration)
        if self.guidance_embedder is not None and guidance is not None:
            embedding = embedding + self.guidance_embedder(guidance)
        return embedding


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = (
            f(x).reshape(b, n, self.heads, d // self.heads).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        out = scaled_dot_product_attention(q, k, v)
        return self.to_out[0](out.transpose(1, 2).reshape(b, n, d))


def _gelu_in_place(h: Tensor) -> Tensor:
    """``gelu(h, approximate="tanh")`` of ``(..., inner)``, in the memory of ``h``.

    With tanh(a / 2) = 2 sigmoid(a) - 1 it is h * sigmoid(2 sqrt(2 / pi) (h + 0.044715 h^3)). By
    parts that stay in a core's cache that takes .6 of the time of torch's own on a CPU, which makes
    a pass without gradients of a small network a tenth faster.
    """
    rows = h.flatten(0, -2)
    for part in rows.split(max(1, _CACHED // h.shape[-1])):
        inner = part * part
        part *= inner.mul_(0.044715 * _SCALE).add_(_SCALE).mul_(part).sigmoid_()
    return rows.view_as(h)


class _GeluProjection(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        h = self.proj(x)
        if h.is_cpu and h.dtype == torch.float32 and not torch.is_grad_enabled():
            return _gelu_in_place(h)
        return gelu(h, approximate="tanh")


class _FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        # Index 1 is the official network's dropout, kept empty for the keys' sake.
        self.net = nn.ModuleList(
            [_GeluProjection(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class _AdaNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        return self.linear(silu(embedding))[:, None].chunk(6, dim=-1)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = _AdaNorm(dim)
        self.attn1 = _Attention(dim, heads)
        self.ff = _FeedForward(dim)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.norm1(embedding)
        dim = x.shape[-1:]
        # addcmul(a, b, c) is a + b * c in one pass: 4 % of a small network's step on a CPU.
        h = torch.addcmul(shift_a, layer_norm(x, dim, eps=1e-6), 1 + scale_a)
        x = torch.addcmul(x, gate_a, self.attn1(h))
        h = torch.addcmul(shift_f, layer_norm(x, dim, eps=1e-5), 1 + scale_f)
        return torch.addcmul(x, gate_f, self.ff(h))


class DiT(nn.Module):
    """Class-conditional diffusion transformer on ``(B, channels, height, width)``.

    Args:
        channels: channels C of a sample.
        height: rows of a sample, a multiple of ``patch``.
        width: columns of a sample; ``height`` if None.
        dim: hidden width, a multiple of ``4 * heads``.
        depth: blocks.
        heads: attention heads.
        patch: side of a square patch.
        classes: number of classes; label ``classes`` is the null class. 0: unconditional.
        time_scale: what t in [0, 1] is multiplied by before its sinusoids: 1 (smooth in t, as
            REPA/SiT teachers) or 1000 (as DiT teachers).
        time_offset: what is added to it; 1 with a scale of -1 reverses time.
    """

    checkpointing = False
    """Whether a block's activations are recomputed in the backward pass instead of kept."""

    def __init__(
        self,
        channels: int = 4,
        height: int = 32,
        width: int | None = None,
        dim: int = 1152,
        depth: int = 28,
        heads: int = 16,
        patch: int = 2,
        classes: int = 1000,
        time_scale: float = 1.0,
        time_offset: float = 0.0,
    ) -> None:
        super().__init__()
        width = height if width is None else width
        self.channels, self.dim, self.patch = channels, dim, patch
        self.height, self.width = height, width
        self.pos_embed = PatchEmbed(channels, dim, patch)
        self.emb = _Embedder(dim, classes, time_scale, time_offset)
        blocks = [_Block(dim, heads) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out_1 = nn.Linear(dim, 2 * dim)
        self.proj_out_2 = nn.Linear(dim, patch * patch * channels)
        self.register_buffer("positions", torch.empty(0), persistent=False)
        self.place_positions()
        self._initialise(blocks)

    def place_positions(self) -> None:
        """Make the fixed position table; no checkpoint holds it."""
        self.positions = sincos_2d(self.dim, *self.grid)

    def _initialise(self, blocks: list[_Block]) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.pos_embed.proj.weight.flatten(1))
        if self.emb.class_embedder is not None:
            nn.init.normal_(self.emb.class_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.emb.timestep_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(self.emb.timestep_embedder.linear_2.weight, std=0.02)
        # adaLN-zero: every block starts as the identity, the output as zero.
        for block in blocks:
            nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(self.proj_out_1.weight)
        nn.init.zeros_(self.proj_out_2.weight)

    @property
    def elements(self) -> int:
        """Spatial elements that one token stands for."""
        return self.patch * self.patch

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding."""
        return self.dim

    @property
    def output_layer(self) -> nn.Linear:
        """The linear layer that reads tokens out."""
        return self.proj_out_2

    def add_duration(self) -> None:
        """Add the second time input; its last layer is zero: the network's function is unchanged.

        Its first layer starts as the first time's: a trained one resolves times in [0, 1], a fresh
        one (std 0.02) barely does, and short distillations would spend their budget on learning it.
        """
        self.emb.duration_embedder = second_time_embedding(self.emb.timestep_embedder)

    def add_guidance(self, inputs: int) -> None:
        """Add inputs for guidance, as the second time is."""
        self.emb.guidance_embedder = Inputs(self.emb.timestep_embedder, inputs)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.transformer_blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of its tokens."""
        return self.height // self.patch, self.width // self.patch

    def _through(
        self,
        x: Tensor,
        t: Tensor,
        condition: Any,
        duration: Tensor | None,
        guidance: Tensor | None,
        depth: int,
    ) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, T, dim)`` after ``depth`` blocks, and the embedding ``(B, dim)``."""
        embedding = self.emb(t, condition, duration, guidance)
        h = self.pos_embed(x) + self.positions
        for block in self.transformer_blocks[:depth]:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, embedding, use_reentrant=False)
            else:
                h = block(h, embedding)
        return h, embedding

    def features(
        self, x: Tensor, t: Tensor, condition: Any, duration: Tensor | None, depth: int
    ) -> Tensor:
        """Hidden state after ``depth`` blocks, as a map ``(B, dim, *grid)``."""
        h, _ = self._through(x, t, condition, duration, None, depth)
        return h.transpose(1, 2).unflatten(2, self.grid)

    def trunk(
        self,
        x: Tensor,
        t: Tensor,
        condition: Any,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden tokens after the last norm ``(B, T, dim)``, and the embedding ``(B, dim)``."""
        h, embedding = self._through(x, t, condition, duration, guidance, self.depth)
        return self.last_norm(h, embedding), embedding

    def last_norm(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Tokens after the last norm, which an embedding modulates."""
        shift, scale = self.proj_out_1(silu(embedding))[:, None].chunk(2, dim=-1)
        return layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def feature_shape(self, depth: int) -> tuple[int, int, int]:
        """The same at every depth."""
        return self.dim, *self.grid

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Outputs as they are."""
        return output

    def project(self, layer: nn.Module, hidden: Tensor, n: int) -> Tensor:
        """A layer's tokens ``(B, T, p * p * n * C)`` as images ``(B, n, C, height, width)``."""
        flat = layer(hidden)
        p, (rows, columns) = self.patch, self.grid
        image = flat.reshape(flat.shape[0], rows, columns, p, p, n, -1)
        image = image.permute(0, 5, 6, 1, 3, 2, 4)
        return image.reshape(flat.shape[0], n, -1, self.height, self.width)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Any,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity ``(B, C, height, width)`` at times t ``(B,)``."""
        hidden, _ = self.trunk(x, t, condition, duration, guidance)
        return self.project(self.proj_out_2, hidden, 1)[:, 0]
