"""What a sample is conditioned on. The core treats a condition as opaque.

Any condition offers ``len``, ``c[rows]``, ``null()``, ``to(device)``, ``cat(other)``,
``where(mask, other)`` and ``pack()``; only the network that reads it knows more (`Classes.labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

EMPTY = -1
"""The id of the empty prompt."""


class Condition(Protocol):
    """A batch of conditions, one per sample."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any) -> Self: ...
    def null(self) -> Self:
        """The same number of empty conditions (for classifier-free guidance)."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The batch on another device."""
        ...

    def cat(self, other: Self) -> Self:
        """This batch followed by another."""
        ...

    def where(self, mask: Tensor, other: Self) -> Self:
        """This batch where ``mask`` ``(B,)`` is true, the other elsewhere."""
        ...

    def pack(self) -> Tensor:
        """A tensor ``(B, ...)`` that holds the batch, to be stored."""
        ...

    def unpack(self, packed: Tensor) -> Self:
        """The batch that :meth:`pack` stored."""
        ...


@dataclass(frozen=True)
class Classes:
    """Class labels ``(B,)`` int64; label ``count`` is the null class."""

    labels: Tensor
    count: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Classes:
        return Classes(self.labels[rows], self.count)

    def null(self) -> Classes:
        """As many null labels."""
        return Classes(torch.full_like(self.labels, self.count), self.count)

    def to(self, device: torch.device | str) -> Classes:
        """The labels on another device."""
        return Classes(self.labels.to(device), self.count)

    def cat(self, other: Classes) -> Classes:
        """These labels followed by others."""
        return Classes(torch.cat([self.labels, other.labels]), self.count)

    def where(self, mask: Tensor, other: Classes) -> Classes:
        """These labels where ``mask`` is true, the other's elsewhere."""
        return Classes(torch.where(mask, self.labels, other.labels), self.count)

    def pack(self) -> Tensor:
        """The labels."""
        return self.labels

    def unpack(self, packed: Tensor) -> Classes:
        """Labels from :meth:`pack`."""
        return Classes(packed, self.count)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts by reference: ids ``(B,)`` int64, on the CPU, into a list that all batches share.

    What text encoders made of them lies elsewhere, under the same ids; -1 is the empty prompt.
    """

    ids: Tensor
    known: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Any) -> Prompts:
        return Prompts(self.ids[rows.cpu() if isinstance(rows, Tensor) else rows], self.known)

    @property
    def count(self) -> int:
        """Number of prompts in the list."""
        return len(self.known)

    def null(self) -> Prompts:
        """As many empty prompts."""
        return Prompts(torch.full_like(self.ids, EMPTY), self.known)

    def to(self, device: torch.device | str) -> Prompts:
        """Itself: texts are looked up by the CPU."""
        return self

    def cat(self, other: Prompts) -> Prompts:
        """These prompts followed by others of the same list."""
        return Prompts(torch.cat([self.ids, other.ids]), self.known)

    def where(self, mask: Tensor, other: Prompts) -> Prompts:
        """These prompts where ``mask`` is true, the other's elsewhere."""
        return Prompts(torch.where(mask.cpu(), self.ids, other.ids), self.known)

    def pack(self) -> Tensor:
        """The ids."""
        return self.ids

    def unpack(self, packed: Tensor) -> Prompts:
        """Prompts from :meth:`pack`."""
        return Prompts(packed.cpu(), self.known)

    def texts(self) -> list[str]:
        """The prompts themselves."""
        return ["" if i == EMPTY else self.known[i] for i in self.ids.tolist()]


@dataclass(frozen=True)
class Unconditional:
    """No condition, for ``size`` samples; its own null."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rows: Any) -> Unconditional:
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return Unconditional(len(torch.empty(self.size, dtype=torch.bool)[rows]))

    def null(self) -> Unconditional:
        """Itself."""
        return self

    def to(self, device: torch.device | str) -> Unconditional:
        """Itself."""
        return self

    def cat(self, other: Unconditional) -> Unconditional:
        """As many as both."""
        return Unconditional(self.size + other.size)

    def where(self, mask: Tensor, other: Unconditional) -> Unconditional:
        """Itself."""
        return self

    def pack(self) -> Tensor:
        """Nothing, ``(B, 0)``."""
        return torch.empty(self.size, 0)

    def unpack(self, packed: Tensor) -> Unconditional:
        """As many as stored."""
        return Unconditional(len(packed))
