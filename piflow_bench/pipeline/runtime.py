"""What stages are called with beside their configuration: this machine, and where files lie.

A stage's configuration says by content what decides its output; where data and weights are found
is a matter of the call, and here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench import registry
from piflow_bench.contracts.data import Dataset, DatasetPlugin
from piflow_bench.contracts.extractor import Extractor, ExtractorPlugin
from piflow_bench.contracts.plugin import Place
from piflow_bench.contracts.reward import Reward, RewardPlugin
from piflow_bench.contracts.space import SpacePlugin
from piflow_bench.contracts.teacher import Teacher, TeacherPlugin
from piflow_bench.errors import UserError
from piflow_bench.file_plugins import places
from piflow_bench.precision import products
from piflow_bench.preparation.given import resolved
from piflow_bench.settings import build_dataclass
from piflow_bench.training.scale import Scale

if TYPE_CHECKING:
    from torch import Tensor

    from piflow_bench.contracts.condition import Condition
    from piflow_bench.evaluation.metrics.lpips import Lpips
    from piflow_bench.evaluation.scorers import Scorer

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """The plugins that an experiment names, with their settings: ``name`` and all others."""

    dataset: Settings = field(default_factory=dict)
    teacher: Settings = field(default_factory=dict)
    space: Settings = field(default_factory=dict)
    """Empty: the dataset's own."""
    extractors: Mapping[str, Settings] = field(default_factory=dict)
    """Settings by extractor's name; those of others are their defaults."""
    rewards: Mapping[str, Settings] = field(default_factory=dict)
    """The same of rewards."""


@dataclass(frozen=True)
class Runtime:
    """Settings of this machine and this call, which change no result."""

    plugins: Any = None
    """As ``plugins=`` gives them."""
    given: Given = Given()
    sample_batch: int = 250
    save_seconds: float = 20.0
    scale: Scale = Scale()
    inputs: str = "runs/inputs"
    """Folder of stand-ins for files that nobody gives."""
    students: tuple[str, ...] = ()
    """Where published students' weights are."""
    lpips_weights: str | None = None
    """Those of LPIPS, where they are not in the cache folder."""
    scorers: Mapping[str, str | None] = field(default_factory=dict)
    """Weights of metrics of pictures with prompts, where they are not in the cache folder."""
    events: Mapping[str, str] = field(default_factory=dict)
    """Folders of TensorBoard's event files, by the names of the trainings' stages."""

    @property
    def folders(self) -> list[str]:
        """Files and folders of plugins."""
        return places(self.plugins)

    @property
    def place(self) -> Place:
        """Where networks run."""
        return Place(self.scale.device, self.inputs)

    # ------------------------------------------------------------------ plugins, nothing loaded

    def dataset_plugin(self) -> DatasetPlugin:
        """The experiment's dataset.

        Raises:
            UserError: for an unknown name, or settings that it has not.
        """
        found: DatasetPlugin = self._plugin("dataset", self.given.dataset)
        return found

    def teacher_plugin(self) -> TeacherPlugin:
        """The experiment's teacher; errors as of the dataset."""
        found: TeacherPlugin = self._plugin("teacher", self.given.teacher)
        return found

    def space_plugin(self) -> SpacePlugin:
        """The space of the samples; errors as of the dataset."""
        found: SpacePlugin = self._plugin("space", {**self.given.space, "name": self.space_name})
        return found

    @property
    def space_name(self) -> str:
        """The space's name: the dataset's own where none is given."""
        own = registry.get("dataset", self.given.dataset["name"], self.folders).space
        return str(self.given.space.get("name", own))

    def extractor_plugin(self, name: str) -> ExtractorPlugin:
        """An extractor with its settings of this experiment."""
        settings = self._of("extractors", name)
        found: ExtractorPlugin = self._plugin("extractor", settings, f"extractors.{name}")
        return found

    def reward_plugin(self, name: str) -> RewardPlugin:
        """A reward with its settings of this experiment."""
        found: RewardPlugin = self._plugin("reward", self._of("rewards", name), f"rewards.{name}")
        return found

    def _of(self, kinds: str, name: str) -> Settings:
        """What is given of a plugin that is one of several: ``extractors.NAME.KEY=VALUE``."""
        given = getattr(self.given, kinds).get(name) or {}
        if not isinstance(given, Mapping):
            raise UserError(f"{kinds}.{name}={given}: its settings are {kinds}.{name}.KEY=VALUE")
        if "name" in given:
            raise UserError(
                f"{kinds}.{name}.name={given['name']}: these are the settings of {name} itself; "
                f"write {kinds}.{given['name']}.KEY=VALUE for those of another"
            )
        return {**given, "name": name}

    def _plugin(self, kind: str, given: Settings, where: str = "") -> Any:
        if "name" not in given:
            raise UserError(f"{kind}: not given; {kind}=NAME, see `piflow_bench list`")
        cls = registry.get(kind, given["name"], self.folders)
        settings = resolved(kind, given, self.inputs)
        return cls(build_dataclass(cls.Config, settings, where or kind))

    # ------------------------------------------------------------------ loaded once in a process

    def dataset(self) -> Dataset:
        """The data."""
        return _dataset(self._text("dataset", "space"))

    def teacher(self, made: Path | None = None, frame: bool = False) -> Teacher:
        """The teacher; ``made`` is what its stage wrote, where it has one.

        As a ``frame`` it has no weights, where they are too large to be beside another model's.
        """
        return _teacher(self._text("dataset", "space", "teacher"), made, frame)

    def extractor(self, name: str, precision: str = "float32") -> Extractor:
        """An extractor, on its device, its network in a precision."""
        found = _extractor(self._text("extractors"), name)
        return found if precision == "float32" else replace(found, precision=precision)

    def reward(self, name: str) -> Reward:
        """What a reward says of samples of the experiment's data."""
        return _reward(self._text("dataset", "space", "rewards"), name)

    def lpips(self) -> Lpips:
        """LPIPS, on its device."""
        return _lpips(self.lpips_weights, self.scale.device)

    def scorer(self, metric: str) -> Scorer:
        """The network of a metric of pictures with prompts, on its device."""
        return _scorer(metric, self.scorers.get(metric), self.scale.device)

    def _text(self, *which: str) -> str:
        """What decides what is loaded, to be remembered by."""
        given = {name: getattr(self.given, name) for name in which}
        call = {"plugins": self.folders, "inputs": self.inputs, "device": self.scale.device}
        return json.dumps([given, call], sort_keys=True)


def _read(text: str) -> Runtime:
    given, call = json.loads(text)
    return Runtime(
        call["plugins"] or None,
        Given(**given),
        scale=Scale(call["device"]),
        inputs=call["inputs"],
    )


@lru_cache(maxsize=8)
def _dataset(text: str) -> Dataset:
    runtime = _read(text)
    return runtime.dataset_plugin().load(runtime.space_plugin(), runtime.place)


@lru_cache(maxsize=8)
def _teacher(text: str, made: Path | None, frame: bool = False) -> Teacher:
    runtime = _read(text)
    plugin = runtime.teacher_plugin()
    return (plugin.frame if frame else plugin.load)(runtime.dataset(), made)


@lru_cache(maxsize=1)
def _lpips(weights: str | None, device: str) -> Lpips:
    from piflow_bench.evaluation.metrics.lpips import load

    return load(weights, device)


@lru_cache(maxsize=4)
def _scorer(metric: str, weights: str | None, device: str) -> Scorer:
    from piflow_bench.evaluation.scorers import load

    return load(metric, weights, device)


@lru_cache(maxsize=8)
def _extractor(text: str, name: str) -> Extractor:
    runtime = _read(text)
    with by_its_setting("extractor", name):
        return runtime.extractor_plugin(name).load(name, runtime.place)


@lru_cache(maxsize=4)
def _reward(text: str, name: str) -> Reward:
    import numpy as np
    import torch

    runtime = _read(text)
    dataset = runtime.dataset()
    with by_its_setting("reward", name):
        score = runtime.reward_plugin(name).load(dataset, runtime.place)
    look = dataset.space.pictures
    assert look is not None  # The plan has refused points.

    @torch.no_grad()
    def reward(samples: Tensor, condition: Condition) -> Tensor:
        with products(runtime.scale.device, "float32"):  # As `check` and evaluation see them.
            try:
                told = np.asarray(score(look(samples), condition))
            except Exception as error:
                raise RuntimeError(f"reward {name}: {type(error).__name__}: {error}") from error
        if told.shape != (len(samples),) or not np.isfinite(told).all():
            raise RuntimeError(
                f"reward {name}: gives {told.dtype} {told.shape} for {len(samples)} pictures, not "
                f"as many finite numbers; `check reward {name}` looks at it"
            )
        return torch.as_tensor(told, dtype=samples.dtype, device=samples.device)

    return reward


@contextmanager
def by_its_setting(kind: str, name: str) -> Iterator[None]:
    """Refusals of a plugin's settings, which alone has them by its kind, by the run's keys."""
    try:
        yield
    except UserError as error:
        words = re.sub(rf"\b{kind}\.(?=\w+)", f"{kind}s.{name}.", str(error))
        raise type(error)(words) from error


def described(extractor: Extractor, pictures: Any, batch: int) -> dict[str, Any]:
    """Outputs of an extractor for pictures ``(n, h, w, c)`` uint8, or for points."""
    import numpy as np

    if pictures.ndim == 4 and pictures.shape[3] == 1:
        pictures = np.repeat(pictures, 3, axis=3)
    size = extractor.batch or batch
    parts = [extractor(pictures[i : i + size]) for i in range(0, len(pictures), size)]
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def plain(runtime: Runtime) -> dict[str, Any]:
    """A runtime as plain values, for another process."""
    return asdict(runtime)


def from_plain(settings: Mapping[str, Any]) -> Runtime:
    """The runtime of :func:`plain`."""
    given, scale = Given(**settings["given"]), Scale(**settings["scale"])
    students = tuple(settings["students"])
    return Runtime(**{**settings, "given": given, "scale": scale, "students": students})
