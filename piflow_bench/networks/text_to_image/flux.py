"""FLUX.1's transformer: text without a mask, guidance as an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from piflow_bench.networks.text_to_image.base import Transformer
from piflow_bench.networks.text_to_image.texts import Text, Texts


class Flux(Transformer):
    """``FluxTransformer2DModel``.

    Args:
        guidance: the scale that it is told (3.5 of FLUX.1-dev); nothing is told to a network
            without such an input (FLUX.1-schnell).
    """

    stacks = ("transformer_blocks", "single_transformer_blocks")

    def __init__(
        self,
        transformer: Any,
        shape: tuple[int, ...],
        texts: Texts,
        guidance: float = 3.5,
        rounding: str = "network",
    ) -> None:
        super().__init__(transformer, shape, texts, rounding)
        self.guidance = guidance

    @property
    def takes_guidance(self) -> bool:
        """FLUX.1 [dev] is, FLUX.1 [schnell] is not."""
        return bool(self.transformer.config.guidance_embeds)

    def around(self, model: Any) -> Flux:
        """The same around another transformer of its class."""
        return Flux(model, self.shape, self.texts, self.guidance, self.rounding)

    def inputs(self, x: Tensor, t: Tensor, text: Text) -> dict[str, Any]:
        """Positions: zeros of the text, (0, row, column) of the picture's tokens."""
        rows, columns = self.grid
        place = torch.zeros(rows, columns, 3, device=x.device)
        place[..., 1] = torch.arange(rows, device=x.device)[:, None]
        place[..., 2] = torch.arange(columns, device=x.device)
        told = getattr(self.roles.acting, "told", None)
        told = self.guidance if told is None else told
        return {
            "timestep": t,
            "guidance": torch.full_like(t, told) if self.takes_guidance else None,
            "pooled_projections": text.pooled,
            "encoder_hidden_states": text.hidden,
            "txt_ids": place.new_zeros(text.hidden.shape[1], 3),
            "img_ids": place.reshape(-1, 3),
        }

    def adapted(self) -> list[str]:
        """Feed-forward layers, of text as well, and the embedding of time."""
        network = self.transformer
        names = []
        for i in range(len(network.transformer_blocks)):
            for part in ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"):
                names.append(f"transformer_blocks.{i}.{part}")
        for i in range(len(network.single_transformer_blocks)):
            names += [f"single_transformer_blocks.{i}.{p}" for p in ("proj_mlp", "proj_out")]
        return names + [f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2)]
