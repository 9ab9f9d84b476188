"""The teacher of the 8x8 digits that comes with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.teacher import Guided, Teacher, TeacherPlugin
from piflow_bench.data.digits import ASSETS, CLASSES, SHAPE, teacher_network
from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import check_shapes, load_into, read_weights
from piflow_bench.networks.dit import DiT
from piflow_bench.settings import Location, setting

FILE = ASSETS / "digits_teacher.safetensors"


@dataclass(frozen=True)
class Config(Guided):
    """Settings of the digits' teacher."""

    checkpoint: Location | None = setting(None)  # other weights of its network
    guidance: float = setting(1.5, least=0)  # scale of classifier-free guidance; 1 is off
    dim: int = setting(64, least=1)
    depth: int = setting(3, least=1)
    untrained: bool = False  # the smoke profile's tiny network


class DigitsTeacher(TeacherPlugin):
    """A small DiT trained on the 8x8 digits, guided; its weights come with the package."""

    Config = Config

    @property
    def path(self) -> Path:
        """The file of its weights."""
        given = self.config.checkpoint
        return local_path(given, "teacher.checkpoint") if given else FILE

    def identity(self) -> Mapping[str, Any]:
        """The weights by their content, wherever they lie."""
        c = self.config
        weights = "untrained" if c.untrained else digest(self.path)
        return {**super().identity(), "checkpoint": weights}

    def look(self, dataset: Dataset) -> str:
        """Whether the samples are such digits."""
        condition = dataset.train_condition
        if dataset.shape != SHAPE or getattr(condition, "count", 0) != CLASSES:
            raise UserError(
                f"teacher=digits: of 8x8 digits of {CLASSES} classes, which {dataset.name} is not; "
                "teacher=trained trains one of any pictures"
            )
        if self.config.checkpoint is not None:
            with torch.device("meta"):
                network = self.fresh_network(dataset)
            stated = read_weights(self.path, values=False).state
            check_shapes(network, stated, f"teacher.checkpoint={self.path}")
        return ""

    def fresh_network(self, dataset: Dataset) -> DiT:
        """Of the same size."""
        return teacher_network(self.config.dim, self.config.depth)

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The guided teacher."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.fresh_network(dataset)
        if not self.config.untrained:
            state = read_weights(self.path).state
            load_into(network, state, f"teacher.checkpoint={self.path}")
        return Teacher(network, network, self.guidance)
