"""Qwen-Image's transformer: text under a mask, no guidance of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from piflow_bench.networks.text_to_image.base import Transformer
from piflow_bench.networks.text_to_image.texts import Text


class Qwen(Transformer):
    """``QwenImageTransformer2DModel``."""

    stacks = ("transformer_blocks",)

    def around(self, model: Any) -> Qwen:
        """The same around another transformer of its class."""
        return Qwen(model, self.shape, self.texts, self.rounding)

    def inputs(self, x: Tensor, t: Tensor, text: Text) -> dict[str, Any]:
        """Text without the places that are padding in the whole batch: a sample keeps its own."""
        hidden, mask = text.hidden, text.mask
        if mask is not None:
            length = int(mask.any(0).nonzero().max()) + 1
            hidden, mask = hidden[:, :length], mask[:, :length]
        return {
            "timestep": t,
            "encoder_hidden_states": hidden,
            "encoder_hidden_states_mask": mask,
            "img_shapes": [[(1, *self.grid)]] * len(x),
        }

    def adapted(self) -> list[str]:
        """Feed-forward layers and the embedding of time.

        The last block's text is never read, hence has no adapters.
        """
        depth = len(self.transformer.transformer_blocks)
        names = []
        for i in range(depth):
            for stream in ("img_mlp", "txt_mlp") if i + 1 < depth else ("img_mlp",):
                names += [f"transformer_blocks.{i}.{stream}.{p}" for p in ("net.0.proj", "net.2")]
        return names + [f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2)]
