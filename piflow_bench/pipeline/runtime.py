"""What stages are called with beside their configuration, and the dataset they speak of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from piflow_bench import registry
from piflow_bench.conformance.dataset import dataset_problems, teacher_problems
from piflow_bench.contracts.data import Dataset
from piflow_bench.errors import UserError
from piflow_bench.file_plugins import places
from piflow_bench.training.scale import Scale

Report = Callable[[float, str], None]
Inputs = Mapping[str, list[Path]]


@dataclass(frozen=True)
class Runtime:
    """Settings of this machine and this call, which change no result."""

    plugins: Any = None
    """As ``plugins=`` gives them."""
    checkpoint: str | None = None
    sample_batch: int = 250
    save_seconds: float = 20.0
    scale: Scale = Scale()
    inputs: str = "runs/inputs"
    """Folder of what profiles generate."""
    student: str | None = None
    """A published student's weights."""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    """The dataset's settings with their paths, which are in no stage's configuration."""

    events: Mapping[str, str] = field(default_factory=dict)
    """Folders of TensorBoard's event files, by the names of the trainings' stages."""

    @property
    def folders(self) -> list[str]:
        """Files and folders of plugins."""
        return places(self.plugins)


def load_dataset(
    config: Mapping[str, Any], runtime: Runtime, backbone: Path | None = None
) -> Dataset:
    """The dataset of a stage; ``backbone`` holds the fitted start of closed-form teachers."""
    settings = dict(runtime.dataset or config["settings"])
    if runtime.checkpoint:
        settings["checkpoint"] = runtime.checkpoint
    if settings.get("generated"):
        settings["generated"] = runtime.inputs
    if backbone is not None:
        settings["backbone"] = str(backbone / "network.safetensors")
    text = json.dumps(settings, sort_keys=True)
    return _cached_dataset(config["name"], text, runtime.scale.device)


@lru_cache(maxsize=8)
def _cached_dataset(name: str, settings: str, device: str) -> Dataset:
    return registry.get("dataset", name)(json.loads(settings), device)


def checked_dataset(config: Mapping[str, Any], runtime: Runtime, held_out: bool) -> Dataset:
    """The dataset of a plan, looked at once in a process.

    A closed form's teacher is not called: its network is fitted by a stage.

    Raises:
        UserError: with all that is wrong with data, conditions or teacher.
    """
    dataset = load_dataset(config, runtime)
    key = (id(dataset), held_out, config["fit_backbone"])
    if key not in _sound:
        problems = dataset_problems(dataset, held_out)
        if not problems and not config["fit_backbone"]:
            problems = teacher_problems(dataset, dataset.teacher())
        if problems:
            raise UserError(f"dataset {config['name']}: {'; '.join(problems)}")
        _sound[key] = dataset  # Kept, so that the number is its own.
    return dataset


_sound: dict[tuple[int, bool, bool], Dataset] = {}
"""Datasets that were looked at."""
