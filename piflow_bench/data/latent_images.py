"""Class-conditional images as latents of an autoencoder: ImageNet 256, or any set prepared alike.

Latents come from ``piflow_bench prepare imagenet``. The reference of the data question is a file:
ADM's ``VIRTUAL_imagenet256_labeled.npz``, statistics, or images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset, DatasetPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.preparation.latents import Latents
from piflow_bench.randomness import SampleRandom, TrainingRandom
from piflow_bench.settings import Location, setting


@dataclass(frozen=True)
class Config:
    """Settings of the dataset."""

    latents: Location | None = setting(None)  # folder made by `prepare imagenet`
    reference: Location | None = setting(
        None
    )  # npz of statistics and images, or a folder of images


@dataclass(frozen=True)
class LatentRows:
    """Training latents, read as they are needed: a random view, and the encoder's own noise."""

    latents: Latents

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, rows: Tensor, random: TrainingRandom | None) -> Tensor:
        """Latents ``(B, C, h, w)`` of the given rows."""
        if random is None:
            return self.latents.take(rows, None, None)
        view = random.integers("data view", 2).cpu()
        noise = random.normal("data noise", self.latents.shape).float().cpu()
        return self.latents.take(rows, view, noise)


def conditions(classes: int) -> Callable[[int, Sequence[int]], Classes]:
    """Labels by sample index: random integers, not balanced (METHODS: the paper's protocol)."""

    def labels(sample_seed: int, indices: Sequence[int]) -> Classes:
        return Classes(SampleRandom(sample_seed, indices).integers(classes), classes)

    return labels


class LatentImages(DatasetPlugin):
    """ImageNet 256, or images prepared alike, as latents of an autoencoder."""

    Config = Config
    space = "latents"

    def requirements(self) -> list[Requirement]:
        """Latents and reference."""
        return [
            Requirement(
                "dataset.latents",
                self.config.latents,
                "python -m piflow_bench prepare imagenet source=IMAGENET out=LATENTS, then "
                "dataset.latents=LATENTS",
            ),
            Requirement(
                "dataset.reference",
                self.config.reference,
                "dataset.reference=VIRTUAL_imagenet256_labeled.npz, of ADM's suite",
            ),
        ]

    def identity(self) -> Mapping[str, Any]:
        """The reference; of the latents the dataset has a digest."""
        return {"reference": digest(local_path(self.config.reference, "reference"))}

    def load(self, space: SpacePlugin, place: Place) -> Dataset:
        """Latents that are mapped into memory."""
        for r in self.requirements():
            if r.source is None:
                raise UserError(f"{r.name}: not given; {r.mend}")
        latents = Latents(Path(self.config.latents))
        reference = local_path(self.config.reference, "reference")
        _check_autoencoder(latents, space)
        facts: Mapping[str, Any] = space.facts() if hasattr(space, "facts") else {}
        factor = int(facts.get("factor", 8))
        made = space.load((latents.shape[1] * factor, latents.shape[2] * factor, 3), place)
        if made.shape != latents.shape:
            raise UserError(
                f"dataset.latents={self.config.latents}: {'x'.join(map(str, latents.shape))}, but "
                f"the space holds {'x'.join(map(str, made.shape))}"
            )
        return Dataset(
            name="imagenet",
            space=made,
            train=torch.empty(0, *latents.shape),
            train_condition=Classes(latents.labels, latents.classes),
            test=torch.empty(0, *latents.shape),
            test_condition=Classes(latents.labels[:0], latents.classes),
            conditions=conditions(latents.classes),
            digest=latents.digest,
            rows=LatentRows(latents),
            reference=reference,
            label_law="uniform",
        )


def _check_autoencoder(latents: Latents, space: SpacePlugin) -> None:
    """Refuse an autoencoder that states another fact than the one that made the latents."""
    made = {"channels": latents.shape[0], **latents.facts}
    if "size" in made:
        made["factor"] = made["size"] // latents.shape[1]
    for name, value in getattr(space, "facts", dict)().items():
        if name in made and made[name] != value:
            raise UserError(
                f"space.autoencoder={space.config.autoencoder}: its {name} is {value}, but that of "
                f"the one which made {latents.folder} is {made[name]}"
            )
