"""Encoded prompts on the disk: written once by a stage, read row by row, never all at once.

A folder holds ``index.json`` and shards of safetensors. A shard has its records' places one after
the other, ``hidden (places, D)``, where each ends, ``ends (n,)``, and ``pooled (n, P)`` where the
encoder gives one. Record 0 is the empty prompt, record i + 1 prompt i.

Of ``fp8`` records the hidden states are float8_e4m3fn, to be multiplied by ``scales (n,)``: half
the room, and what pi-Flow's training and evaluation read (its cache rounds them prompt by prompt).
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from piflow_bench import interruption
from piflow_bench.contracts.condition import Prompts
from piflow_bench.files.atomic import write_atomically
from piflow_bench.networks.text_to_image.texts import Text

INDEX = "index.json"
SHARD = 256
"""Records of a shard: 1 GB of FLUX's in 16 bits."""
KEPT = ("as encoded", "fp8")
"""How hidden states lie in the shards."""
FP8 = torch.float8_e4m3fn
LEAST_SCALE = 1e-6


class TextEncoder(Protocol):
    """Text encoders of a model."""

    dtype: torch.dtype
    """Of what it gives."""

    def __call__(self, prompts: Sequence[str]) -> Text:
        """The prompts' texts."""
        ...

    def cut(self, prompt: str) -> str:
        """What is left out of a prompt that is too long; empty where nothing is."""
        ...


def encode(
    encoder: Callable[[], TextEncoder],
    prompts: Sequence[str],
    folder: Path,
    batch: int,
    report: Callable[[float, str], None],
    shard: int = SHARD,
    kept: str = KEPT[0],
) -> list[str]:
    """Encode prompts into ``folder``; shards that are there are kept.

    Args:
        encoder: loads it, if anything is left to encode.
        prompts: all of them; the empty one is added.
        folder: of the shards.
        batch: prompts at once.
        report: is told the share that is done.
        shard: records of a shard.
        kept: one of ``KEPT``.

    Returns:
        A line for every prompt of which the end was cut off.
    """
    records = ["", *prompts]
    loaded: TextEncoder | None = None
    facts: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, len(records), shard)):
        own = records[first : first + shard]
        path = folder / f"texts-{number:05d}.safetensors"
        cuts = path.with_suffix(".json")
        if not (path.is_file() and cuts.is_file()):
            if loaded is None:
                loaded = encoder()
            found = [loaded(own[i : i + batch]) for i in range(0, len(own), batch)]
            tensors = _joined(found, kept)
            write_atomically(path, partial(save_file, tensors))
            lost = {first + i - 1: loaded.cut(text) for i, text in enumerate(own)}
            lines = [
                f"prompt {i}: cut before {_few(words)!r}" for i, words in lost.items() if words
            ]
            write_atomically(cuts, partial(Path.write_text, data=json.dumps(lines)))
        facts.append({"file": path.name, "first": first, "count": len(own)})
        report((first + len(own)) / len(records), f"{first + len(own)} prompts")
        if interruption.asked():
            raise interruption.Stopped
    shards = [folder / fact["file"] for fact in facts]
    index = {"records": len(records), "shards": facts}
    (folder / INDEX).write_text(json.dumps(index))
    return [line for s in shards for line in json.loads(s.with_suffix(".json").read_text())]


def _few(words: str, most: int = 60) -> str:
    """The beginning of what is left out."""
    return words if len(words) <= most else f"{words[: most - 3]}..."


def _joined(texts: Sequence[Text], kept: str) -> dict[str, Tensor]:
    """A shard's tensors: places under the mask alone, one record after the other."""
    hidden, lengths = [], []
    for text in texts:
        for i in range(len(text.hidden)):
            row = text.hidden[i] if text.mask is None else text.hidden[i][text.mask[i].bool()]
            hidden.append(row)
            lengths.append(len(row))
    found = {"ends": torch.tensor(lengths).cumsum(0)}
    if kept == "fp8":
        scales = [_scale(row) for row in hidden]
        hidden = [(row.float() / s).to(FP8) for row, s in zip(hidden, scales, strict=True)]
        found["scales"] = torch.stack(scales).cpu()
    found["hidden"] = torch.cat(hidden).cpu()
    if texts[0].pooled is not None:
        found["pooled"] = torch.cat([t.pooled for t in texts if t.pooled is not None]).cpu()
    return {k: v.contiguous() for k, v in found.items()}


def _scale(hidden: Tensor) -> Tensor:
    """What brings a record's largest value to the largest of fp8."""
    return (hidden.float().abs().max() / torch.finfo(FP8).max).clamp(min=LEAST_SCALE)


class EncodedTexts:
    """The texts of prompts in a folder that :func:`encode` wrote."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        self.folder, self.records = folder, int(index["records"])
        self._firsts = [int(shard["first"]) for shard in index["shards"]]
        self._files = [folder / shard["file"] for shard in index["shards"]]
        self._open: dict[int, _Shard] = {}

    def __call__(self, condition: Prompts) -> Text:
        """The texts of a batch, padded with zeros to its longest; no mask if all are as long.

        Raises:
            IndexError: for a prompt that was not encoded.
        """
        rows = [self._row(i + 1) for i in condition.ids.tolist()]
        hidden = [row[0] for row in rows]
        lengths = torch.tensor([len(h) for h in hidden])
        longest = int(lengths.max())
        padded = hidden[0].new_zeros(len(hidden), longest, hidden[0].shape[1])
        for place, own in zip(padded, hidden, strict=True):
            place[: len(own)] = own
        mask = None
        if bool((lengths < longest).any()):
            mask = torch.arange(longest)[None] < lengths[:, None]
        pooled = [row[1] for row in rows if row[1] is not None]
        return Text(padded, mask, torch.stack(pooled) if pooled else None)

    def _row(self, record: int) -> tuple[Tensor, Tensor | None]:
        if not 0 <= record < self.records:
            raise IndexError(f"prompt {record - 1} is none of {self.records - 1} encoded ones")
        number = bisect_right(self._firsts, record) - 1
        if number not in self._open:
            self._open[number] = _Shard(self._files[number])
        return self._open[number].row(record - self._firsts[number])


class _Shard:
    """One file, mapped: of a row only its own places are read."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt")

    @cached_property
    def _ends(self) -> list[int]:
        ends: list[int] = self._file.get_tensor("ends").tolist()
        return [0, *ends]

    @cached_property
    def _pooled(self) -> Tensor | None:
        return self._if_there("pooled")

    @cached_property
    def _scales(self) -> Tensor | None:
        return self._if_there("scales")

    def _if_there(self, name: str) -> Tensor | None:
        return self._file.get_tensor(name) if name in self._file.keys() else None  # noqa: SIM118

    def row(self, i: int) -> tuple[Tensor, Tensor | None]:
        hidden = self._file.get_slice("hidden")[self._ends[i] : self._ends[i + 1]]
        if self._scales is not None:
            hidden = hidden.float() * self._scales[i]
        return hidden, None if self._pooled is None else self._pooled[i]
