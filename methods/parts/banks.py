"""The latest real samples of every label, held as training goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from piflow_bench.api import Condition, Context, TrainingRandom, flow


class Bank(nn.Module):
    """The latest real samples of every label; a module, so that checkpoints hold it.

    ``samples`` ``(labels, size, *sample)`` are whole in every process. Samples of a step serve the
    steps after it, so that what is drawn does not depend on how a batch is divided.
    """

    def __init__(self, labels: int, size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("samples", torch.zeros(labels, size, *shape))
        self.register_buffer("seen", torch.zeros(labels, dtype=torch.int64))
        self._new: list[tuple[Tensor, Tensor]] = []

    def of_label(self, x0: Tensor, labels: Tensor, number: int, random: TrainingRandom) -> Tensor:
        """Real samples ``(B, number, *sample)`` of the labels ``(B,)``.

        The row's own, then others of its label without repeats, while there are as many.
        """
        held = self.seen[labels].clamp(max=self.size)
        keys = random.uniform("positives", (self.size,))
        absent = torch.arange(self.size).to(held) >= held[:, None]
        order = torch.cat([torch.zeros_like(held)[:, None], (keys + absent).argsort(1) + 1], 1)
        chosen = order.gather(1, torch.arange(number).to(held) % (held[:, None] + 1))
        others = self.samples[labels[:, None], (chosen - 1).clamp(min=0)].to(x0)
        return torch.where(flow.expand(chosen == 0, others) > 0, x0[:, None], others)

    def of_any(self, number: int, random: TrainingRandom) -> Tensor:
        """Samples of any label ``(B, number, *sample)``, once there are any, as often as held."""
        held = self.seen.clamp(max=self.size)
        ends = held.cumsum(0)
        place = (random.uniform("unconditional", (number,)).double() * ends[-1]).long()
        label = torch.searchsorted(ends, place, right=True)
        return self.samples[label, place - ends[label] + held[label]]

    def keep(self, x0: Tensor, labels: Tensor, context: Context) -> None:
        """Take in what all processes were given in this step, in place of the oldest."""
        self._new.append((x0, labels))
        if not context.last:
            return
        x0, labels = (context.gather(torch.cat(parts)) for parts in zip(*self._new, strict=True))
        same = labels[:, None] == labels
        place = (self.seen[labels] + same.tril(-1).sum(1)) % self.size
        kept = same.triu(1).sum(1) < self.size  # A place is written once.
        self.samples[labels[kept], place[kept]] = x0[kept].to(self.samples)
        self.seen.index_add_(0, labels, torch.ones_like(labels))
        self._new = []


def label_of(condition: Condition, like: Tensor) -> Tensor:
    """Labels ``(B,)`` as numbers; without labels all rows are of one."""
    packed = condition.pack().to(like.device)
    return packed if packed.dim() == 1 else packed.new_zeros(len(packed), dtype=torch.int64)
