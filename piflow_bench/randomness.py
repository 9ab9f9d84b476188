"""Random numbers that depend on what they are for, never on batch size, rank or history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 64
"""Training draws are made in blocks of this many rows of the global batch."""


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any printable parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class SampleRandom:
    """Per-sample draws for sampling, keyed by (sample_seed, sample index, stream, step).

    Made on the CPU in float32 by a counter-based generator (Philox), so sample i is the same
    whatever batch, rank or device it is in.
    """

    def __init__(self, sample_seed: int, indices: Sequence[int], device: str = "cpu") -> None:
        self.sample_seed, self.indices, self.device = sample_seed, list(indices), device

    def _draws(self, stream: str, step: int) -> list[np.random.Generator]:
        key = seed_of("sample", self.sample_seed, stream, step)
        return [
            np.random.Generator(np.random.Philox(key=np.array([key, i], dtype=np.uint64)))
            for i in self.indices
        ]

    def normal(self, step: int, shape: Sequence[int], stream: str = "renoise") -> Tensor:
        """Standard normal draws ``(B, *shape)`` for sampling step ``step``."""
        draws = [
            g.standard_normal(tuple(shape), dtype=np.float32) for g in self._draws(stream, step)
        ]
        return torch.from_numpy(np.stack(draws)).to(self.device)

    def noise(self, shape: Sequence[int]) -> Tensor:
        """The initial noise ``(B, *shape)`` of these samples."""
        return self.normal(0, shape, stream="noise")

    def integers(self, high: int, stream: str = "label") -> Tensor:
        """Integers ``(B,)`` uniform in [0, high)."""
        return torch.tensor([int(g.integers(high)) for g in self._draws(stream, 0)])


class TrainingRandom:
    """Draws of one training step, keyed by (train_seed, step, name, row of the global batch).

    Rows are drawn in blocks of ``BLOCK``; a rank or micro-batch takes its own rows, so the numbers
    do not depend on how the global batch is divided. Every name is a stream of its own: two draws
    of one step need two names.
    """

    def __init__(
        self,
        train_seed: int,
        step: int,
        first_row: int,
        rows: int,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.train_seed, self.step = train_seed, step
        self.first_row, self.rows = first_row, rows
        self.device, self.dtype = device, dtype or torch.get_default_dtype()
        self._used: set[str] = set()

    def _blocks(self, name: str) -> list[tuple[torch.Generator, slice]]:
        if name in self._used:
            raise ValueError(f"training draw '{name}' was already made in this step: name it anew")
        self._used.add(name)
        blocks = []
        last_row = self.first_row + self.rows
        for block in range(self.first_row // BLOCK, -(-last_row // BLOCK)):
            generator = torch.Generator().manual_seed(
                seed_of("train", self.train_seed, self.step, name, block)
            )
            low = max(self.first_row - block * BLOCK, 0)
            high = min(last_row - block * BLOCK, BLOCK)
            blocks.append((generator, slice(low, high)))
        return blocks

    def normal(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal ``(B, *shape)``, drawn in float32."""
        parts = [torch.randn(BLOCK, *shape, generator=g)[rows] for g, rows in self._blocks(name)]
        return torch.cat(parts).to(self.device, self.dtype)

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform in [0, 1) ``(B, *shape)``, drawn in float32."""
        parts = [torch.rand(BLOCK, *shape, generator=g)[rows] for g, rows in self._blocks(name)]
        return torch.cat(parts).to(self.device, self.dtype)

    def integers(self, name: str, high: int) -> Tensor:
        """Integers ``(B,)`` uniform in [0, high)."""
        parts = [torch.randint(high, (BLOCK,), generator=g)[rows] for g, rows in self._blocks(name)]
        return torch.cat(parts).to(self.device)

    def shared_integer(self, name: str, high: int) -> int:
        """One integer in [0, high), the same for all rows, ranks and micro-batches of the step."""
        generator = torch.Generator().manual_seed(
            seed_of("shared", self.train_seed, self.step, name)
        )
        return int(torch.randint(high, (), generator=generator))
