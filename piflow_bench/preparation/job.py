"""What is encoded, how, and into which folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from piflow_bench.errors import UserError
from piflow_bench.evaluation.protocols import names
from piflow_bench.networks.autoencoder import Autoencoder
from piflow_bench.preparation.latents import FACTS, KINDS
from piflow_bench.preparation.sources.source import ImageSource
from piflow_bench.preparation.sources.spool import is_scattered, spooled
from piflow_bench.settings import NPZ, setting

UNFINISHED, SPOOL, REFERENCE = "unfinished.json", ".images.bin", "reference.json"
SPOOL_LOCK = "images.lock"
WRITER = 2
"""Version of what writes the folder; raised when other bytes would come out."""
CROP = "centre: halved by boxes, bicubic"
Report = Callable[[str, int, int], None]
"""Called with what is being done, images done and images in all."""


@dataclass(frozen=True)
class Preparation:
    """What decides the latents, beside the images and the autoencoder; and what is made of them."""

    size: int = setting(256, least=1)
    """Side of the cropped images, pixels."""
    kind: str = setting("mean-std", choices=KINDS)
    flip: bool = True
    """Whether mirror images are encoded too."""
    dtype: str = setting("float16", choices=("float16", "float32"))
    """Of what is stored."""
    classes: int = setting(1000, least=1)
    shard: int = setting(10000, least=1)
    """Images in a shard."""
    seed: int = setting(0, least=0)
    """Of the encoder's noise, where samples are stored."""
    skip_corrupt: bool = False
    """Whether images that cannot be decoded are left out."""
    partial: bool = False
    """Whether some of ImageNet's images may be absent."""
    reference: str | None = setting(None, **NPZ)
    """An npz file for the cropped images' statistics under ``protocol``."""
    protocol: str | None = setting(None, choices=names)

    def __post_init__(self) -> None:
        if (self.reference is None) != (self.protocol is None):
            raise UserError("reference=FILE.npz and protocol=NAME are given together or not at all")

    def deciding(self) -> dict[str, Any]:
        """The settings that decide a shard's bytes.

        Leaving out corrupt images does not: without any, the bytes are the same, and with one,
        there is no shard unless it was allowed.
        """
        others = ("skip_corrupt", "partial", "reference", "protocol")
        return {k: v for k, v in asdict(self).items() if k not in others}


@dataclass(frozen=True)
class Job:
    """Images to be encoded into a folder, and what it takes; ``coder`` where it is loaded."""

    images: ImageSource
    folder: Path
    chosen: Preparation
    batch: int
    threads: int
    """That decode images ahead of the encoder."""
    coder: Autoencoder | None = None

    def shards(self) -> list[range]:
        """Rows of every shard."""
        total, size = len(self.images), self.chosen.shard
        return [range(start, min(start + size, total)) for start in range(0, total, size)]

    def record(self, index: int) -> Path:
        """The file that says that a shard is whole."""
        return self.folder / f"shard-{index:05d}.json"

    def is_done(self, index: int) -> bool:
        """Whether a shard is whole; in a finished folder all are."""
        return self.record(index).is_file() or (self.folder / FACTS).is_file()


def with_spool(job: Job, report: Report) -> Job:
    """The job, its images where each can be read alone."""
    if not is_scattered(job.images):
        return job
    with FileLock(job.folder / SPOOL_LOCK):
        total = len(job.images)
        told = lambda done: report("copy in the parquet files' order", done, total)  # noqa: E731
        return replace(job, images=spooled(job.images, job.folder / SPOOL, told))
