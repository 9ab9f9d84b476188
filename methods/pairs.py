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
    the uniform grid, noise first.
    """

    def __init__(self, pairs: int, nfe: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.pairs, self.nfe = pairs, nfe
        self.register_buffer("states", torch.zeros(pairs, nfe + 1, *shape))
        self.register_buffer("packed", torch.empty(pairs, 0))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        # The packed condition's shape and type are known only after the first pairs.
        self.packed = state_dict[prefix + "packed"].clone()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def fill(self, batch: Batch, context: Context, steps: int) -> None:
        """Solve one more batch of pairs with ``steps`` Heun steps, until the buffer is full."""
        start = int(self.filled)
        n = min(len(batch), self.pairs - start)
        if n <= 0:
            return
        condition = batch.condition[torch.arange(n)]
        x = context.random.normal("pair noise", batch.shape)[:n]
        per_segment = max(round(steps / self.nfe), 1)
        times = flow.time_grid(self.nfe * per_segment)
        trajectory = [x]
        for i in range(self.nfe):
            part = times[i * per_segment : (i + 1) * per_segment + 1]
            x = flow.heun(lambda x, t: context.teacher(x, t, condition), x, part)
            trajectory.append(x)
        packed = condition.pack()
        if start == 0:
            self.packed = torch.zeros(self.pairs, *packed.shape[1:], dtype=packed.dtype)
        self.states[start : start + n] = torch.stack(trajectory, 1)
        self.packed[start : start + n] = packed
        self.filled += n

    def draw(self, like: Condition, context: Context) -> tuple[Tensor, Condition]:
        """Random filled trajectories ``(B, nfe + 1, *sample)`` and their conditions."""
        rows = context.random.integers("pair rows", int(self.filled))
        return self.states[rows], like.unpack(self.packed[rows])


def buffer_for(pairs: int, spec: Spec) -> PairBuffer:
    """An empty buffer for the NFE that ``spec`` trains for."""
    return PairBuffer(pairs, spec.train_nfe or 1, spec.shape)
