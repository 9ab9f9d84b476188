"""A residual perceptron for points in the plane, a backbone with all parts of the contract."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from piflow_bench.contracts.condition import Classes, Condition
from piflow_bench.networks.embeddings import Inputs, TimeEmbedding, second_time_embedding


class _Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = self.modulation(silu(embedding))[:, None].chunk(2, dim=-1)
        h = self.norm(x) * (1 + scale) + shift
        return x + self.outer(silu(self.inner(h)))


class MLP(nn.Module):
    """Velocity network on points ``(B, channels)``, of classes or of none: one token per point.

    Positions enter as themselves and as sinusoids, so that sharp boundaries can be learned.
    """

    elements = 1

    def __init__(
        self,
        channels: int = 2,
        dim: int = 128,
        depth: int = 4,
        frequencies: int = 6,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.dim, self.frequencies = channels, dim, frequencies
        self.time_embedder = TimeEmbedding(dim, channels=64)
        self.duration_embedder: TimeEmbedding | None = None
        self.guidance_embedder: Inputs | None = None
        self.proj_in = nn.Linear(channels * (1 + 2 * frequencies), dim)
        blocks = [_Block(dim) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.proj_out_1 = nn.Linear(dim, dim)
        self.proj_out_2 = nn.Linear(dim, channels)
        nn.init.zeros_(self.proj_out_2.weight)
        nn.init.zeros_(self.proj_out_2.bias)
        for block in blocks:
            nn.init.zeros_(block.outer.weight)
            nn.init.zeros_(block.outer.bias)
        # The last one is the null class.
        self.class_embedder = nn.Embedding(classes + 1, dim) if classes else None

    def add_duration(self) -> None:
        """Add the second time input, as :meth:`DiT.add_duration` does."""
        self.duration_embedder = second_time_embedding(self.time_embedder)

    def add_guidance(self, inputs: int) -> None:
        """Add inputs for guidance, as the second time is."""
        self.guidance_embedder = Inputs(self.time_embedder, inputs)

    @property
    def embedding_dim(self) -> int:
        """Width of the embedding."""
        return self.dim

    @property
    def output_layer(self) -> nn.Linear:
        """The linear layer that reads the hidden state out."""
        return self.proj_out_2

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def _through(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None,
        guidance: Tensor | None,
        depth: int,
    ) -> tuple[Tensor, Tensor]:
        """Hidden state ``(B, 1, dim)`` after ``depth`` blocks, and the embedding ``(B, dim)``."""
        embedding = self.time_embedder(t)
        if self.duration_embedder is not None and duration is not None:
            embedding = embedding + self.duration_embedder(duration)
        if self.guidance_embedder is not None and guidance is not None:
            embedding = embedding + self.guidance_embedder(guidance)
        if self.class_embedder is not None:
            assert isinstance(condition, Classes)
            embedding = embedding + self.class_embedder(condition.labels)
        octaves = 2.0 ** torch.arange(self.frequencies, dtype=x.dtype, device=x.device)
        angle = (x[:, :, None] * octaves).flatten(1) * (torch.pi / 4)
        h = self.proj_in(torch.cat([x, angle.sin(), angle.cos()], dim=1))[:, None]
        for block in self.blocks[:depth]:
            h = block(h, embedding)
        return h, embedding

    def features(
        self, x: Tensor, t: Tensor, condition: Condition, duration: Tensor | None, depth: int
    ) -> Tensor:
        """Hidden state after ``depth`` blocks, as a map ``(B, dim, 1, 1)``."""
        hidden, _ = self._through(x, t, condition, duration, None, depth)
        return hidden.transpose(1, 2)[..., None]

    def trunk(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden state ``(B, 1, dim)`` and embedding ``(B, dim)``."""
        h, embedding = self._through(x, t, condition, duration, guidance, self.depth)
        return silu(self.proj_out_1(h + embedding[:, None])), embedding

    def feature_shape(self, depth: int) -> tuple[int, int, int]:
        """The same at every depth."""
        return self.dim, 1, 1

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Outputs as they are."""
        return output

    def project(self, layer: nn.Module, hidden: Tensor, n: int) -> Tensor:
        """A layer's ``(B, 1, n * C)`` as ``(B, n, C)``."""
        flat = layer(hidden)
        return flat.reshape(flat.shape[0], n, -1)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity ``(B, channels)`` at points x, times t ``(B,)``."""
        hidden, _ = self.trunk(x, t, condition, duration, guidance)
        return self.project(self.proj_out_2, hidden, 1)[:, 0]
