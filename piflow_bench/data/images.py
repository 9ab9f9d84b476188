"""Any pictures of one's own: a folder, an archive, arrays or a table, with classes or without.

They are prepared once (see ``preparation/pictures.py``) and read from a map of the disk. A part of
them is held out as the reference of the data question. In a space of latents they are encoded once.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from piflow_bench.contracts.condition import Classes, Condition, Unconditional
from piflow_bench.contracts.data import Dataset, DatasetPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.space import Space, SpacePlugin
from piflow_bench.errors import UserError
from piflow_bench.files.atomic import write_atomically
from piflow_bench.laws import LAWS
from piflow_bench.preparation.picture_sizes import CROPS
from piflow_bench.preparation.pictures import (
    FACTS,
    Pictures,
    open_pictures,
    prepare_pictures,
    split,
)
from piflow_bench.progress_bar import now_and_then
from piflow_bench.randomness import SampleRandom, TrainingRandom
from piflow_bench.settings import Location, setting
from piflow_bench.sources import is_file_plugin, source_digest

EVERY = 5.0
"""Seconds between two words of progress."""
ENCODED = 64
"""Pictures that are encoded at once."""


@dataclass(frozen=True)
class Config:
    """Settings of one's own pictures."""

    # a folder, zip, tar, npz, npy, idx or parquet file, or what `prepare images` made
    folder: Location | None = setting(None)
    # pixels: of squares, or [height, width]; None: as they are
    size: int | list[int] | None = setting(None, least=1)
    crop: str = setting("centre", choices=CROPS)  # the rule by which they come to that size
    # a file of labels, a parquet column, none; None: class folders, or what lies beside
    labels: Location | None = setting(None)
    # share, or number, of the pictures that no training sees; a folder's own test part comes first
    held_out: float = setting(0.1, above=0)
    split_seed: int = setting(0, least=0)
    mirror: bool = False  # whether training sees mirror images, too
    install: str = setting("")  # how the pictures are had, where they are not in their folder
    judge: str | None = setting(None)  # an extractor that says which class a generated sample shows
    # by which generated samples get their classes
    label_law: str = setting("as data", choices=LAWS)


@dataclass(frozen=True, eq=False)
class PictureRows:
    """Training pictures as samples of pixels, read as they are needed."""

    images: np.ndarray
    """uint8 ``(n, h, w, c)``, mapped."""
    index: np.ndarray
    """Rows of ``images`` that these are."""
    encode: Callable[[np.ndarray], Tensor]
    mirror: bool

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Tensor, random: TrainingRandom | None) -> Tensor:
        """Samples ``(B, *shape)`` of the given rows."""
        found = self.encode(np.ascontiguousarray(self.images[self.index[rows.cpu().numpy()]]))
        if not self.mirror or random is None:
            return found
        view = random.integers("data view", 2).cpu().bool()
        return torch.where(view[:, None, None, None], found.flip(3), found)


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """Training pictures as latents, which are encoded when they are first asked for, and kept."""

    path: Path
    pictures: PictureRows
    space: Space
    deferred = True
    """To look at some of them is to encode all."""

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def latents(self) -> np.ndarray:
        """float32 ``(n, *shape)``, mapped."""
        with FileLock(f"{self.path}.lock"):
            if not self.path.is_file():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.path, self._encode)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def _encode(self, path: Path) -> None:
        shape = (len(self), *self.space.shape)
        written = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for i in range(0, len(self), ENCODED):
            rows = torch.arange(i, min(i + ENCODED, len(self)))
            written[i : i + len(rows)] = self.pictures.take(rows, None).numpy()
        written.flush()

    def take(self, rows: Tensor, random: TrainingRandom | None) -> Tensor:
        """Latents ``(B, C, h, w)`` of the given rows."""
        return torch.from_numpy(np.array(self.latents[rows.cpu().numpy()]))


class Images(DatasetPlugin):
    """Pictures of one's own: any folder, archive or array, with classes or without."""

    Config = Config

    def requirements(self) -> list[Requirement]:
        """The pictures."""
        mend = self.config.install or "dataset.folder=PATH"
        return [Requirement("dataset.folder", self.config.folder, mend)]

    @property
    def judge(self) -> str | None:
        """The one that was named: a folder of pictures brings none."""
        judge: str | None = self.config.judge
        return judge

    def identity(self) -> Mapping[str, Any]:
        """What is held out, and how training and samples see the rest; of the pictures a digest."""
        c = self.config
        return {
            "held_out": c.held_out,
            "split_seed": c.split_seed,
            "mirror": c.mirror,
            "label_law": c.label_law,
        }

    def pictures(self, place: Place, report: Callable[[float, str], None]) -> Pictures:
        """The pictures, prepared if need be.

        Raises:
            UserError: naming what is wrong with them, or with the settings.
        """
        c = self.config
        if c.folder is None:
            raise UserError("dataset.folder: not given; dataset.folder=PATH names your pictures")
        source = Path(c.folder).expanduser()
        if c.install and not source.exists():
            raise UserError(f"dataset.folder={source}: no such file or folder; {c.install}")
        if (source / FACTS).is_file():
            given = {"size": c.size, "labels": c.labels}
            for name, value in given.items():
                if value is not None:
                    raise UserError(
                        f"dataset.{name}={value}: {source} is prepared already; name the pictures "
                        "themselves"
                    )
            return open_pictures(source)
        asked = json.dumps([str(source.resolve()), c.size, c.crop, c.labels], sort_keys=True)
        name = f"{source.stem or 'pictures'}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
        out = Path(place.inputs) / "images" / name
        try:
            return prepare_pictures(
                source, out, size=c.size, crop=c.crop, labels=c.labels, report=report
            )
        except UserError as error:
            words = str(error).replace("source=", "dataset.folder=", 1)
            words = re.sub(r"(?<![\w.])(size|crop|labels)=", r"dataset.\1=", words)
            words = words.replace("out=", "runs=")
            raise UserError(words) from error

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Training and held-out pictures, read from the disk."""
        c = self.config
        found = self.pictures(place, _spoken())
        train, test = split(found, _share(c.held_out, len(found)), c.split_seed)
        _, height, width, channels = found.images.shape
        made = space.load((height, width, channels), place)
        if made.encode is None:
            raise UserError(f"space={type(space).__name__}: does not make samples of pictures")
        rows: Any = PictureRows(found.images, train, made.encode, c.mirror)
        held_out: Any = PictureRows(found.images, test, made.encode, False)
        key = hashlib.sha256(
            json.dumps([found.digest, dict(self.identity()), *_identity(space)]).encode()
        ).hexdigest()
        if not made.bounded and c.mirror:
            raise UserError("dataset.mirror=true: latents are encoded once, without mirror images")
        if not made.bounded:
            folder = Path(place.inputs) / "latents"
            rows = EncodedRows(folder / f"{key[:16]}-train.npy", rows, made)
            held_out = EncodedRows(folder / f"{key[:16]}-test.npy", held_out, made)
        labels = None if found.labels is None else torch.from_numpy(np.array(found.labels))
        count = len(found.classes or ())

        def of(index: np.ndarray) -> Condition:
            return Unconditional(len(index)) if labels is None else Classes(labels[index], count)

        return Dataset(
            name="images",
            space=made,
            train=torch.empty(0, *made.shape),
            train_condition=of(train),
            test=torch.empty(0, *made.shape),
            test_condition=of(test),
            conditions=_conditions(c.label_law, None if labels is None else labels[train], count),
            digest=key,
            rows=rows,
            test_rows=held_out,
            label_law=None if labels is None else c.label_law,
            cautions=found.cautions,
        )


def _spoken() -> Callable[[float, str], None]:
    """Says now and then how far the pictures are prepared: a plan waits for them."""
    say = now_and_then(lambda words: print(words, file=sys.stderr, flush=True), EVERY)
    return lambda share, text: say(f"preparing pictures: {share:.0%} {text}".rstrip())


def _identity(space: SpacePlugin) -> list[Any]:
    """All that decides what a space makes of pictures."""
    cls: type = type(space)
    source = source_digest(cls) if is_file_plugin(cls) else ""
    return [f"{cls.__module__}.{cls.__qualname__}" * (not source), source, dict(space.identity())]


def _share(held_out: float, n: int) -> float | int:
    """A share below 1, or a number of pictures."""
    if held_out < 1:
        return held_out
    if held_out != int(held_out) or held_out >= n:
        raise UserError(
            f"dataset.held_out={held_out:g}: must be a share below 1, or fewer than the {n} "
            "pictures"
        )
    return int(held_out)


def _conditions(
    law: str, labels: Tensor | None, count: int
) -> Callable[[int, Sequence[int]], Condition]:
    """Classes of samples by index."""

    def none(seed: int, indices: Sequence[int]) -> Condition:
        return Unconditional(len(indices))

    def drawn(seed: int, indices: Sequence[int]) -> Condition:
        assert labels is not None
        if law == "balanced":
            return Classes(torch.tensor([i % count for i in indices]), count)
        if law == "uniform":
            return Classes(SampleRandom(seed, indices).integers(count), count)
        return Classes(labels[SampleRandom(seed, indices).integers(len(labels))], count)

    return none if labels is None else drawn
