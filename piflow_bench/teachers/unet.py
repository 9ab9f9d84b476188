"""A U-Net from a checkpoint of the field: diffusers' UNet2DModel folders, EDM's networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from piflow_bench.contracts.condition import Classes
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.contracts.teacher import Teacher, TeacherPlugin
from piflow_bench.errors import UserError
from piflow_bench.files.digests import digest
from piflow_bench.files.hub import local_path
from piflow_bench.files.weights import read_weights
from piflow_bench.networks.checkpoints.diffusers_unet import (
    diffusers_architecture,
    load_diffusers_unet,
    read_config,
    scheduler_config,
)
from piflow_bench.networks.checkpoints.edm import edm_architecture, edm_state, load_edm
from piflow_bench.networks.unet import UNet
from piflow_bench.networks.unet_architecture import Architecture
from piflow_bench.settings import Location, setting
from piflow_bench.teachers.converted import Converted
from piflow_bench.teachers.process import (
    Process,
    checkpoint_requirement,
    given_checkpoint,
    reading,
    schedule_of,
)
from piflow_bench.teachers.scheduler_config import from_scheduler_config
from piflow_bench.teachers.schedules import EDM, VP, Schedule


@dataclass(frozen=True)
class Config(Process):
    """Settings of a U-Net from a checkpoint."""

    # a folder as save_pretrained writes it, or a file of EDM's networks in safetensors
    checkpoint: Location | None = setting(None)
    classes: int | None = setting(None, least=0)  # where its file does not say
    null_label: bool = False  # whether the last label was trained as that of no class


class UNetTeacher(TeacherPlugin):
    """A U-Net from a checkpoint: diffusers' UNet2DModel, EDM's DDPM++, NCSN++ and ADM."""

    Config = Config

    @property
    def source(self) -> str:
        """Where the checkpoint is; a UserError if that is not said."""
        return given_checkpoint(self.config.checkpoint)

    @property
    def path(self) -> Path:
        """Its local file or folder."""
        return local_path(self.source, "teacher.checkpoint")

    def requirements(self) -> list[Requirement]:
        """The checkpoint."""
        return [checkpoint_requirement(self.config.checkpoint)]

    def identity(self) -> Mapping[str, Any]:
        """The checkpoint by its content, and what it predicts of which process."""
        schedule, prediction = self.process()
        process = f"{prediction} of {schedule}"  # A file beside the weights may say which.
        return {**super().identity(), "process": process, "checkpoint": digest(self.path)}

    def process(self) -> tuple[Schedule, str]:
        """Schedule and prediction: of the settings, of the file beside it, or of its layout."""
        schedule: Schedule = EDM()
        prediction = "edm"
        if self.path.is_dir():
            stated = scheduler_config(self.path)
            schedule, prediction = from_scheduler_config(stated) if stated else (VP(), "eps")
        if self.config.schedule is None:
            self._refuse_unread()
        schedule = schedule_of(self.config, schedule)
        return schedule, reading(schedule, self.config.predicts or prediction)

    def _refuse_unread(self) -> None:
        """Settings of a schedule that is not named."""
        c, fresh = self.config, Config()
        for name in ("units", "reverse", "beta_first", "beta_last", "steps"):
            if getattr(c, name) != getattr(fresh, name):
                of = "flow" if name in ("units", "reverse") else "linear"
                raise UserError(
                    f"teacher.{name}={getattr(c, name)}: of a schedule that is named; "
                    f"teacher.schedule={of}"
                )

    def look(self, dataset: Dataset) -> str:
        """Compare channels, size and classes with the data."""
        a, where = self._architecture(dataset), f"teacher.checkpoint={self.source}"
        stated = (a.channels, *a.sides)
        if stated != dataset.shape:
            raise UserError(
                f"{where}: for samples of {'x'.join(map(str, stated))}, but these are "
                f"{'x'.join(map(str, dataset.shape))}"
            )
        condition = dataset.train_condition
        if a.classes and isinstance(condition, Classes) and condition.count != a.classes:
            raise UserError(
                f"{where}: of {a.classes} classes, but {dataset.name} has {condition.count}"
            )
        if a.classes and not isinstance(condition, Classes):
            raise UserError(f"{where}: of {a.classes} classes, but {dataset.name} has none")
        if self.guidance.on and not a.classes:
            raise UserError(
                f"teacher.guidance={self.guidance.scale:g}: {where} knows no classes to guide by"
            )
        if self.guidance.on and self.path.is_dir() and not self.config.null_label:
            raise UserError(
                f"teacher.guidance={self.guidance.scale:g}: {where} was not trained without a "
                "class, as far as its file says; teacher.null_label=true if its last label is that"
            )
        return ""

    def fresh_network(self, dataset: Dataset) -> nn.Module:
        """Of the checkpoint's architecture."""
        return self._converted(UNet(self._architecture(dataset)))

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The teacher, its output made the flow's velocity."""
        self.look(dataset)
        c = self.config
        if self.path.is_dir():
            _, height, width = dataset.shape
            found = load_diffusers_unet(
                str(self.path), height, width, self._classes(dataset), c.null_label
            )
        else:
            found = load_edm(str(self.path))
        network = self._converted(found.network)
        return Teacher(network, network, self.guidance, taken=found.taken)

    def _converted(self, network: UNet) -> Converted:
        schedule, prediction = self.process()
        return Converted(network, schedule, prediction, self.config.sigma_data)

    def _classes(self, dataset: Dataset) -> int | None:
        """Labels, where the file does not say how many: those of the data."""
        if self.config.classes is not None:
            return self.config.classes
        stated = read_config(self.path, f"teacher.checkpoint={self.source}")
        if stated.get("class_embed_type") != "timestep":
            return None
        return getattr(dataset.train_condition, "count", None)

    def _architecture(self, dataset: Dataset) -> Architecture:
        """By what the file states, without its weights."""
        where = f"teacher.checkpoint={self.source}"
        if len(dataset.shape) != 3:
            raise UserError(f"{where}: a network of pictures, which {dataset.name} has not")
        if self.path.is_dir():
            _, height, width = dataset.shape
            config = read_config(self.path, where)
            return diffusers_architecture(
                config, height, width, self._classes(dataset), self.config.null_label, where
            )
        return edm_architecture(edm_state(read_weights(self.path, values=False).state, where))
