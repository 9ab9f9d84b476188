"""Text encoders of FLUX.1 and Qwen-Image: those of diffusers' pipelines, and nothing else of them.

What a transformer is trained on is decided by templates, lengths and masks: the pipelines' own
``encode_prompt`` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from piflow_bench.networks.text_to_image.loading import loaded, quietly
from piflow_bench.networks.text_to_image.texts import Text

NEEDED = ("transformers",)
"""Packages that encoders need beside diffusers."""


class FluxEncoder:
    """T5's states, run without a mask on ``length`` places, and CLIP's pooled state."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype, length: int) -> None:
        from diffusers import FluxPipeline

        self._pipeline = _encoders_of(FluxPipeline, folder, device, dtype)
        self.length, self.dtype = length, dtype

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Text:
        """The texts; all places are text to the transformer."""
        with quietly():  # What is cut is said once, by the stage.
            hidden, pooled, _ = self._pipeline.encode_prompt(
                list(prompts), prompt_2=None, max_sequence_length=self.length
            )
        return Text(hidden, None, pooled)

    def cut(self, prompt: str) -> str:
        """What T5 does not see; CLIP, which gives a summary, sees 77 places."""
        return _cut(self._pipeline.tokenizer_2, prompt, self.length)


class QwenEncoder:
    """The language model's last states behind its template; padding is under the mask."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype, length: int) -> None:
        from diffusers import QwenImagePipeline

        self._pipeline = _encoders_of(QwenImagePipeline, folder, device, dtype)
        self.length, self.dtype = length, dtype

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Text:
        """The texts; no mask where all are as long."""
        hidden, mask = self._pipeline.encode_prompt(list(prompts), max_sequence_length=self.length)
        return Text(hidden, None if mask is None else mask.bool())

    def cut(self, prompt: str) -> str:
        """What the transformer does not see."""
        return _cut(self._pipeline.tokenizer, prompt, self.length)


def _encoders_of(pipeline: Any, folder: Path, device: str, dtype: torch.dtype) -> Any:
    return loaded(pipeline, folder, dtype, transformer=None, vae=None).to(device)


def _cut(tokenizer: Any, prompt: str, length: int) -> str:
    with quietly():
        tokens = tokenizer(prompt, truncation=False).input_ids
    return "" if len(tokens) <= length else str(tokenizer.decode(tokens[length - 1 : -1]))
