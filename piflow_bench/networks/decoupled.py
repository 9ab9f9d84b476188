"""Decoupled MeanFlow's transformer: a DiT whose last blocks are told where a step ends."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from piflow_bench.networks.dit import DiT


class DecoupledDiT(DiT):
    """A flow map without a layer more than a flow's DiT.

    One embedding of times serves both: the first ``handover`` blocks are told the step's start t,
    the others, and the last norm, its end t - duration (the decoder that reads the end out).
    """

    handover = 0
    """Blocks that are told the start."""

    def trunk(
        self,
        x: Tensor,
        t: Tensor,
        condition: Any,
        duration: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden tokens after the last norm ``(B, T, dim)``, and the embedding of the end."""
        start = self.emb(t, condition, None, guidance)
        end = start if duration is None else self.emb(t - duration, condition, None, guidance)
        h = self.pos_embed(x) + self.positions
        for i, block in enumerate(self.transformer_blocks):
            h = block(h, start if i < self.handover else end)
        return self.last_norm(h, end), end
