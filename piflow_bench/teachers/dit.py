"""A diffusion transformer from a checkpoint of the field: DiT, SiT, REPA, pi-Flow, diffusers."""

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
from piflow_bench.networks.checkpoints.dit import (
    Architecture,
    architecture,
    dit_state,
    load_dit,
    prefix_of,
    which_set,
)
from piflow_bench.networks.dit import DiT
from piflow_bench.settings import Location, setting
from piflow_bench.teachers.converted import Converted
from piflow_bench.teachers.process import (
    Process,
    checkpoint_requirement,
    given_checkpoint,
    reading,
    schedule_of,
)
from piflow_bench.teachers.schedules import Flow

REPA = "hf://Lakonik/pi-Flow-ImageNet/teachers/repa_imagenet.pth"


@dataclass(frozen=True)
class Config(Process):
    """Settings of a DiT from a checkpoint; by default it predicts velocities of a flow."""

    checkpoint: Location | None = setting(Location(REPA))
    heads: int | None = setting(None, least=1)  # where its file does not say


class DiTTeacher(TeacherPlugin):
    """A diffusion transformer from a checkpoint: DiT, SiT, REPA, pi-Flow's, diffusers'."""

    Config = Config

    @property
    def source(self) -> str:
        """Where the checkpoint is; a UserError if that is not said."""
        return given_checkpoint(self.config.checkpoint)

    def requirements(self) -> list[Requirement]:
        """The checkpoint."""
        return [checkpoint_requirement(self.config.checkpoint)]

    def identity(self) -> Mapping[str, Any]:
        """The checkpoint by its content, and what its time and guidance are."""
        found = {**super().identity(), "checkpoint": digest(local_path(self.source, "teacher"))}
        return found

    def look(self, dataset: Dataset) -> str:
        """Compare channels, grid and classes with the data."""
        shape = dataset.shape
        if len(shape) != 3:
            raise UserError(
                f"teacher.checkpoint={self.source}: a network of pictures, which {dataset.name} "
                "has not"
            )
        if self.config.predicts in ("eps", "v", "edm") and self.config.schedule is None:
            raise UserError(
                f"teacher.predicts={self.config.predicts}: on which schedule? DiT's is "
                "teacher.schedule=linear"
            )
        a, taken = self._architecture(dataset)
        if self.guidance.on and not a.classes:
            raise UserError(
                f"teacher.guidance={self.guidance.scale:g}: teacher.checkpoint={self.source} knows "
                "no classes to guide by"
            )
        if shape[1] % a.patch or shape[2] % a.patch:
            raise UserError(
                f"teacher.checkpoint={self.source}: its patches of {a.patch} do not divide samples "
                f"of {shape[2]}x{shape[1]}"
            )
        if a.channels != shape[0]:
            raise UserError(
                f"teacher.checkpoint={self.source}: for samples of {a.channels} channels, but "
                f"these are {'x'.join(map(str, shape))}"
            )
        condition = dataset.train_condition
        if a.classes and not isinstance(condition, Classes):
            raise UserError(
                f"teacher.checkpoint={self.source}: of {a.classes} classes, but {dataset.name} "
                "has none"
            )
        if a.classes and isinstance(condition, Classes) and a.classes != condition.count:
            raise UserError(
                f"teacher.checkpoint={self.source}: embeds {a.classes} classes and a null label, "
                f"but {dataset.name} has {condition.count} classes"
            )
        return taken

    def fresh_network(self, dataset: Dataset) -> nn.Module:
        """Of the checkpoint's architecture."""
        a, _ = self._architecture(dataset)
        units, reverse = self._own_time()
        scale, offset = (-units, units) if reverse else (units, 0.0)
        return self._converted(
            DiT(a.channels, a.height, dataset.shape[2], a.dim, a.depth, a.heads, a.patch, a.classes,
                scale, offset)
        )  # fmt: skip

    def load(self, dataset: Dataset, made: Path | None = None) -> Teacher:
        """The guided teacher."""
        self.look(dataset)
        units, reverse = self._own_time()
        found, _, taken = load_dit(
            self.source, units, reverse, dataset.shape[1], self.config.heads, dataset.shape[2]
        )
        network = self._converted(found)
        return Teacher(network, network, self.guidance, taken=taken)

    @property
    def _is_velocity(self) -> bool:
        """Whether it predicts the velocity of a flow: a matter of units alone."""
        c = self.config
        return c.predicts in (None, "velocity") and c.schedule in (None, "flow")

    def _own_time(self) -> tuple[float, bool]:
        """Units and direction of the network's time, as far as the network itself sees to them."""
        c = self.config
        return (c.units, c.reverse) if self._is_velocity else (1.0, False)

    def _converted(self, network: DiT) -> nn.Module:
        if self._is_velocity:
            return network
        c = self.config
        schedule = schedule_of(c, Flow(c.units, c.reverse))
        prediction = reading(schedule, c.predicts or "velocity")
        return Converted(network, schedule, prediction, c.sigma_data)

    def _architecture(self, dataset: Dataset) -> tuple[Architecture, str]:
        """By the shapes in the file alone."""
        found = read_weights(local_path(self.source, "teacher"), values=False)
        where = f"teacher.checkpoint={self.source}"
        state = dit_state(found.state, where)
        a = architecture(state, found.facts, dataset.shape[1], self.config.heads, where)
        return a, which_set(found.taken, prefix_of(found.state, where))
