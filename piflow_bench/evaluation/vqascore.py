"""VQAScore (arXiv:2404.01291): how likely CLIP-FlanT5 answers that a picture shows its prompt.

A FLAN-T5 reads a question in which the picture's patches stand: states of CLIP's tower behind its
last layer but one, through a projector. The score is ``exp`` of the mean log-likelihood of the
tokens of "Yes" and the end behind it. Pictures are prepared as pi-Flow's evaluation does it, in
floats; the paper's own program rounds them to 8 bits on the way. The network is read by
:mod:`.clip_t5`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torch.nn.utils.rnn import pad_sequence

from piflow_bench.evaluation.extractors.clip import MEAN, STD
from piflow_bench.evaluation.extractors.extractor import standardised

RULE = "CLIP-FlanT5, likelihood of Yes, square on CLIP's mean, torch bicubic"
BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: "
)
BEHIND = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
ANSWER = "Yes"
LONGEST = 2048
"""Tokens of a question, the picture being one of them; the rest is cut off."""
BATCH = 16


def squared(pictures: np.ndarray, side: int) -> Tensor:
    """Pictures in the middle of a square of CLIP's mean colour, resized and standardised.

    Args:
        pictures: ``(b, h, w, 3)`` uint8.
        side: of the result, in pixels.

    Returns:
        ``(b, 3, side, side)`` float32.
    """
    x = standardised(pictures, MEAN, STD)
    height, width = x.shape[2:]
    size = max(height, width)
    down, right = size - height, size - width
    # Zero is the mean colour.
    x = pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    if size == side:
        return x
    x = interpolate(x, (side, side), mode="bicubic", align_corners=False, antialias=True)
    # Bicubic weights are partly negative: beside an edge the result leaves the range of colours.
    ends = np.array([0, 255], np.uint8)[:, None, None, None].repeat(3, axis=3)
    black, white = standardised(ends, MEAN, STD)
    return torch.maximum(torch.minimum(x, white), black)


@dataclass(frozen=True)
class ClipT5:
    """The network with its tokenizer."""

    t5: Any
    tower: Any
    projector: nn.Module
    tokenizer: Any
    layer: int
    """Which hidden state of the tower is read, from the end."""
    first: int
    """How many of its tokens are left out: that of the class."""

    @torch.inference_mode()
    def score(self, pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """Scores ``(n,)`` float32 of pictures ``(n, h, w, 3)`` uint8 with as many prompts."""
        return np.concatenate(
            [
                self._scores(pictures[i : i + BATCH], prompts[i : i + BATCH])
                for i in range(0, len(pictures), BATCH)
            ]
        )

    def _scores(self, pictures: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        read, mask = self._questions(self._patches(pictures), prompts)
        answer = self._tokens(ANSWER).expand(len(prompts), -1)
        start = torch.full_like(answer[:, :1], self.t5.config.decoder_start_token_id)
        given = torch.cat([start, answer[:, :-1]], 1)
        logits = self.t5(
            inputs_embeds=read, attention_mask=mask, decoder_input_ids=given, use_cache=False
        ).logits
        # The embedding has more rows than there are tokens; the published program cuts them off.
        logits = logits[..., : len(self.tokenizer)].float()
        missed = cross_entropy(logits.transpose(1, 2), answer, reduction="none").mean(1)
        found: np.ndarray = (-missed).exp().cpu().numpy()
        return found

    def _patches(self, pictures: np.ndarray) -> Tensor:
        """Pictures ``(b, p, d)`` as the text's network reads them."""
        weight = next(self.tower.parameters())
        x = squared(pictures, self.tower.config.image_size).to(weight.device, weight.dtype)
        states = self.tower(x, output_hidden_states=True).hidden_states
        found: Tensor = self.projector(states[self.layer][:, self.first :])
        return found

    def _questions(self, patches: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What the encoder reads, ``(b, l, d)``, and where something stands, ``(b, l)``."""
        embed = self.t5.get_input_embeddings()
        # Both halves are texts of their own: an end token stands before the picture, too.
        before = self._tokens(BEFORE)
        left = LONGEST - len(before) - 1
        rows = [
            torch.cat([embed(before), seen, embed(self._tokens(BEHIND.format(prompt))[:left])])
            for seen, prompt in zip(patches, prompts, strict=True)
        ]
        there = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(there, batch_first=True)

    def _tokens(self, text: str) -> Tensor:
        ids = self.tokenizer(text, truncation=False, verbose=False).input_ids
        return torch.tensor(ids, device=self.projector[0].weight.device)  # type: ignore[index]
