"""What several kinds are of: data and teacher, and the student that a method builds for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from piflow_bench import registry
from piflow_bench.contracts.method import Method, Spec
from piflow_bench.contracts.teacher import Teacher
from piflow_bench.pipeline.runtime import Runtime
from piflow_bench.pipeline.stage import Identity, Inputs, Task, left_out
from piflow_bench.settings import build_dataclass

if TYPE_CHECKING:
    from piflow_bench.training.settings import Budget, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class OfWorld(Task):
    """A task of the data, their space and the teacher."""

    dataset: Identity
    space: Identity
    teacher: Identity


@dataclass(frozen=True, kw_only=True)
class OfStudent(OfWorld):
    """A task of the student that a method builds in this world."""

    method: str
    version: int
    """The method's."""
    settings: Mapping[str, Any]
    source: str | None = left_out(None)
    """Digest of a method's file, which is its version; None for an installed one."""

    def method_of(self, runtime: Runtime) -> Method:
        """The configured method."""
        return load_method(self.method, self.settings, runtime)


@dataclass(frozen=True, kw_only=True)
class Training(Task):
    """A task that trains, in all processes that a training has."""

    resumable = True

    training: Mapping[str, Any]
    budget: Mapping[str, Any]
    train_seed: int

    def training_settings(self) -> TrainingSettings:
        """How it is trained."""
        from piflow_bench.training.settings import TrainingSettings

        return build_dataclass(TrainingSettings, self.training, "training")

    def training_budget(self) -> Budget:
        """How long."""
        from piflow_bench.training.settings import Budget

        return build_dataclass(Budget, self.budget, "budget")

    def group(self, runtime: Runtime) -> int:
        """Rows of its batch that belong together."""
        return 1


def load_method(name: str, settings: Mapping[str, Any], runtime: Runtime) -> Method:
    """A method with its settings."""
    cls = registry.get("method", name, runtime.folders)
    return cls(build_dataclass(cls.Config, settings, f"variants.{name}"))


def teacher_of(inputs: Inputs, runtime: Runtime) -> Teacher:
    """The teacher; of what its stage made, where it has one."""
    teacher = runtime.teacher(inputs["teacher"][0] if "teacher" in inputs else None)
    network: Any = teacher.network
    if hasattr(network, "adapt_with"):  # A training says otherwise; weights bring theirs.
        network.adapt_with(1, 0.0)
    return teacher


def frame_of(inputs: Inputs, runtime: Runtime) -> Teacher:
    """The teacher without its weights, for a model that is sampled in its place, never beside it.

    Of a teacher that has no such form it is the teacher.
    """
    return runtime.teacher(inputs["teacher"][0] if "teacher" in inputs else None, frame=True)


def spec_of(
    runtime: Runtime, batch: int, seed: int, device: str, train_nfe: int | None = None
) -> Spec:
    """What a method builds its student for."""
    dataset, teacher = runtime.dataset(), runtime.teacher_plugin()

    def fresh() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return teacher.fresh_network(dataset)

    return Spec(dataset.shape, train_nfe, batch, fresh, dataset.train_condition, device, seed)
