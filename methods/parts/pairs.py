"""Pairs (noise, the converged teacher's states on a grid), generated as training goes.

Their generation is part of the budget: it goes through the counted teacher, and takes a fixed share
of all compute, however long the training.
"""

from __future__ import annotations

import torch
from piflow_methods.parts.spending import spent
from torch import Tensor, nn

from piflow_bench.api import Batch, Condition, Context, Spec, flow


class PairBuffer(nn.Module):
    """A ring of teacher trajectories; a module, so that checkpoints hold it.

    Solving takes ``share`` of all compute. Until ``pairs`` are held it comes first, as long as it
    takes no more than ``share`` of the whole budget (where that counts compute), so that a short
    training has its pairs early; from then on it goes on at its pace and replaces the oldest.

    ``states`` ``(pairs, nfe + 1, *sample)`` are the teacher's states at the ``nfe + 1`` times of
    the uniform grid, noise first; float32, whole in every process, since each draws from all of
    them. Pairs solved in a step serve the steps after it, so that what is drawn does not depend on
    how a batch is divided over processes and micro-batches.
    """

    def __init__(
        self, pairs: int, share: float, nfe: int, shape: tuple[int, ...], like: Condition
    ) -> None:
        super().__init__()
        self.pairs, self.share, self.nfe = pairs, share, nfe
        packed = like.pack()
        self.register_buffer("states", torch.zeros(pairs, nfe + 1, *shape))
        self.register_buffer("packed", torch.zeros(pairs, *packed.shape[1:], dtype=packed.dtype))
        self.register_buffer("solved", torch.zeros((), dtype=torch.int64))
        self.register_buffer("evaluations", torch.zeros((), dtype=torch.int64))
        self._new: list[tuple[Tensor, Tensor]] = []
        self._known: tuple[int, int] | None = None
        self.register_load_state_dict_post_hook(_forget_counts)

    @property
    def counts(self) -> tuple[int, int]:
        """``solved`` and ``evaluations`` as numbers, which are read once: a GPU is waited for."""
        if self._known is None:
            self._known = int(self.solved), int(self.evaluations)
        return self._known

    def draw(self, batch: Batch, context: Context, steps: int) -> tuple[Tensor, Condition]:
        """Random trajectories ``(B, nfe + 1, *sample)`` and their conditions.

        In steps that renew, every row of the batch is solved with ``steps`` Heun steps first; in
        the first step those are what is drawn.
        """
        held = min(self.counts[0], self.pairs)
        if self.renews(context):
            self._new.append((self._solve(batch, context, steps), batch.condition.pack()))
        if held == 0:
            states, packed = self._new[-1]
        else:
            rows = context.random.integers("pair rows", held)
            states, packed = self.states[rows], self.packed[rows]
        if context.last and self._new:
            self._keep(context, steps)
        return states, batch.condition.unpack(packed)

    def renews(self, context: Context) -> bool:
        """Whether this step solves new pairs: the same answer for all of its rows."""
        share = self.share
        solved, evaluations = self.counts
        if solved < self.pairs:
            share /= max(context.progress, self.share)
        return solved == 0 or evaluations < share * context.forwards

    def _solve(self, batch: Batch, context: Context, steps: int) -> Tensor:
        x = context.random.normal("pair noise", batch.shape)
        per_segment = self._per_segment(steps)
        times = flow.time_grid(self.nfe * per_segment)
        trajectory = [x]
        for i in range(self.nfe):
            part = times[i * per_segment : (i + 1) * per_segment + 1]
            x = flow.heun(lambda x, t: context.teacher(x, t, batch.condition), x, part)
            trajectory.append(x)
        return torch.stack(trajectory, 1)

    def _per_segment(self, steps: int) -> int:
        return max(round(steps / self.nfe), 1)

    def _keep(self, context: Context, steps: int) -> None:
        """Take in what all processes solved in this step, in place of the oldest."""
        states, packed = (
            context.gather(torch.cat(parts)) for parts in zip(*self._new, strict=True)
        )
        n, (solved, evaluations) = len(states), self.counts
        places = (solved + torch.arange(n, device=states.device)) % self.pairs
        kept = slice(max(n - self.pairs, 0), None)
        self.states[places[kept]] = states[kept].to(self.states.dtype)
        self.packed[places[kept]] = packed[kept].to(self.packed)  # Some conditions are nowhere.
        grid = self.nfe * self._per_segment(steps)
        evaluations += n * spent("heun", grid, {}, context.teacher.guidance, 1.0)
        self._known = solved + n, evaluations
        self.solved.fill_(solved + n)
        self.evaluations.fill_(evaluations)
        self._new = []


def _forget_counts(buffer: PairBuffer, keys: object) -> None:
    """Other counts were loaded."""
    buffer._known = None


def buffer_for(pairs: int, share: float, spec: Spec) -> PairBuffer:
    """An empty buffer for the NFE that ``spec`` trains for."""
    return PairBuffer(pairs, share, spec.train_nfe or 1, spec.shape, spec.condition)
