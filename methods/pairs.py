"""Pairs (noise, the converged teacher's states on a grid), generated as training goes.

Their generation is part of the budget: it goes through the counted teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from piflow_bench.api import Batch, Condition, Context, Spec, flow


class PairBuffer(nn.Module):
    """A buffer of teacher trajectories; a module, so that checkpoints hold it.

    ``states`` ``(pairs, nfe + 1, *sample)`` are the teacher's states at the ``nfe + 1`` times of
    the uniform grid, noise first. Pairs solved in a step serve the steps after it, so that what is
    drawn does not depend on how a batch is divided over processes and micro-batches.
    """

    def __init__(self, pairs: int, nfe: int, shape: tuple[int, ...], like: Condition) -> None:
        super().__init__()
        self.pairs, self.nfe = pairs, nfe
        packed = like.pack()
        self.register_buffer("states", torch.zeros(pairs, nfe + 1, *shape))
        self.register_buffer("packed", torch.zeros(pairs, *packed.shape[1:], dtype=packed.dtype))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self._solved: list[tuple[Tensor, Tensor]] = []

    def draw(self, batch: Batch, context: Context, steps: int) -> tuple[Tensor, Condition]:
        """Random trajectories ``(B, nfe + 1, *sample)`` and their conditions.

        Until the buffer is full, every row of the batch is solved with ``steps`` Heun steps first;
        in the first step those are what is drawn.
        """
        filled = int(self.filled)
        own = None
        if filled < self.pairs:
            own = self._solve(batch, context, steps), batch.condition.pack()
            self._solved.append(own)
        if filled == 0:
            assert own is not None
            states, packed = own
        else:
            rows = context.random.integers("pair rows", filled)
            states, packed = self.states[rows], self.packed[rows]
        if context.last and self._solved:
            self._keep(context)
        return states, batch.condition.unpack(packed)

    def _solve(self, batch: Batch, context: Context, steps: int) -> Tensor:
        x = context.random.normal("pair noise", batch.shape)
        per_segment = max(round(steps / self.nfe), 1)
        times = flow.time_grid(self.nfe * per_segment)
        trajectory = [x]
        for i in range(self.nfe):
            part = times[i * per_segment : (i + 1) * per_segment + 1]
            x = flow.heun(lambda x, t: context.teacher(x, t, batch.condition), x, part)
            trajectory.append(x)
        return torch.stack(trajectory, 1)

    def _keep(self, context: Context) -> None:
        """Take in what all processes solved in this step."""
        states, packed = (
            context.gather(torch.cat(parts)) for parts in zip(*self._solved, strict=True)
        )
        start = int(self.filled)
        n = min(len(states), self.pairs - start)
        self.states[start : start + n] = states[:n]
        self.packed[start : start + n] = packed[:n]
        self.filled += n
        self._solved = []


def buffer_for(pairs: int, spec: Spec) -> PairBuffer:
    """An empty buffer for the NFE that ``spec`` trains for."""
    return PairBuffer(pairs, spec.train_nfe or 1, spec.shape, spec.condition)
