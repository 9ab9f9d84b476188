"""Prompts: text that pictures are drawn of, without pictures of their own.

Sample i is of prompt ``i // seeds``, so that a prompt's samples lie together, and of the list again
after its end.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from piflow_bench.contracts.condition import Prompts
from piflow_bench.contracts.data import Dataset, DatasetPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.prompts import COLUMN, read_sized
from piflow_bench.laws import BY_PROMPT
from piflow_bench.settings import Location, setting


@dataclass(frozen=True)
class Config:
    """Settings of prompts."""

    # lines of text, or a csv, jsonl or parquet file
    prompts: Location | None = setting(None)
    column: str = setting(COLUMN)  # of a table
    first: int | None = setting(None, least=1)  # so many of the list; None: all
    seeds: int = setting(1, least=1)  # samples of a prompt
    # prompts that students are trained on, in such a file; None: those of the samples
    training: Location | None = setting(None)
    # of the last so many of them; None: all
    last: int | None = setting(None, least=1)
    height: int = setting(1024, least=16)  # of the pictures
    width: int = setting(1024, least=16)
    # of a table with sizes of its own: the prompts of this height and width alone
    bucket: bool = False
    # statistics or images of real pictures, where the data question is asked
    reference: Location | None = setting(None)


class PromptList(DatasetPlugin):
    """Prompts of a text-to-image model, several samples each; students are trained without data."""

    Config = Config
    space = "latents"

    def requirements(self) -> list[Requirement]:
        """The lists, and the reference where one is named."""
        c = self.config
        found = [Requirement("dataset.prompts", c.prompts, "dataset.prompts=FILE")]
        for name in ("training", "reference"):
            if getattr(c, name) is not None:
                found.append(Requirement(f"dataset.{name}", getattr(c, name), f"dataset.{name}="))
        return found

    def identity(self) -> Mapping[str, Any]:
        """How many samples a prompt has, and the reference; of the lists there is a digest."""
        c = self.config
        found: dict[str, Any] = {"seeds": c.seeds}
        if c.reference is not None:
            found["reference"] = digest(local_path(c.reference, "dataset.reference"))
        return found

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """The prompts, and the conditions of samples."""
        c = self.config
        if c.prompts is None:
            raise UserError("dataset.prompts: not given; dataset.prompts=FILE of prompts")
        shown, cautions = _listed(c.prompts, c, "dataset.prompts")
        shown = shown[: c.first]
        if c.training is None:
            trained = shown
            cautions += ("Students are trained on the prompts that they are scored on.",)
        else:
            trained, more = _listed(c.training, c, "dataset.training")
            cautions += more
            trained = trained[-c.last :] if c.last else trained
        # One list, those of the samples first: an id means the same for all.
        known = tuple(dict.fromkeys([*shown, *trained]))
        place_of = {text: i for i, text in enumerate(known)}
        made = space.load((c.height, c.width, 3), place)
        empty = torch.empty(0, *made.shape)
        return Dataset(
            name="prompts",
            space=made,
            train=empty,
            train_condition=Prompts(torch.tensor([place_of[t] for t in trained]), known),
            test=empty,
            test_condition=Prompts(torch.empty(0, dtype=torch.int64), known),
            conditions=_conditions([place_of[t] for t in shown], c.seeds, known),
            digest=_digest(shown, trained),
            reference=local_path(c.reference, "dataset.reference") if c.reference else None,
            label_law=BY_PROMPT,
            cautions=cautions,
        )


def _conditions(
    ids: Sequence[int], seeds: int, known: Sequence[str]
) -> Callable[[int, Sequence[int]], Prompts]:
    """The prompt of a sample by its index; the seed changes its noise alone."""
    table = torch.tensor(ids)

    def of(sample_seed: int, indices: Sequence[int]) -> Prompts:
        places = torch.tensor(list(indices), dtype=torch.int64) // seeds % len(table)
        return Prompts(table[places], known)

    return of


def _digest(shown: Sequence[str], trained: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([shown, trained]).encode()).hexdigest()


def _listed(source: str, config: Config, where: str) -> tuple[list[str], tuple[str, ...]]:
    """The prompts of a list that a run draws, and what is said of those with sizes of their own."""
    c, given = config, f"{where}={source}"
    texts, sizes = read_sized(local_path(str(source), where), given, c.column)
    own = (c.height, c.width)
    if sizes is None or set(sizes) == {own}:
        if c.bucket and sizes is None:
            raise UserError(f"dataset.bucket=true: {given} has no columns height and width")
        return texts, ()
    count = Counter(f"{width}x{height}" for height, width in sizes)
    listed = ", ".join(f"{size} ({n})" for size, n in count.most_common(3))
    listed += f" and {len(count) - 3} more" if len(count) > 3 else ""
    if not c.bucket:
        return texts, (
            f"All pictures are {c.width}x{c.height}, whatever sizes {where} names: {listed}.",
        )
    found = [text for text, size in zip(texts, sizes, strict=True) if size == own]
    if not found:
        raise UserError(
            f"dataset.bucket=true: no prompt of {given} is for {c.width}x{c.height} pixels; its "
            f"sizes: {listed}; set dataset.width and dataset.height"
        )
    return found, ()
