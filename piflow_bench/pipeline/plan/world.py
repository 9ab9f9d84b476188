"""What an experiment's samples are of, and how they are looked at: nothing is loaded to be run.

Data, space and teacher, and extractors, each with what of it is in the keys of stages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench.config.schema import ExperimentConfig, WeightsConfig
from piflow_bench.conformance.dataset import dataset_problems, network_of
from piflow_bench.contracts.condition import Unconditional
from piflow_bench.contracts.data import Dataset
from piflow_bench.contracts.extractor import LOGITS, ExtractorPlugin
from piflow_bench.contracts.teacher import Guided, TeacherPlugin
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.evaluation.protocols import OF_DATA, QUESTIONS, Protocol
from piflow_bench.pipeline.plugin_sources import plugin_source
from piflow_bench.pipeline.runtime import Given, Runtime, by_its_setting
from piflow_bench.pipeline.stage import Identity
from piflow_bench.pipeline.stages.scores import WITH_PROMPTS
from piflow_bench.preparation.given import path_of
from piflow_bench.settings import build_dataclass

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class World:
    """Facts that all stages of an experiment share."""

    config: ExperimentConfig
    runtime: Runtime
    dataset: Dataset
    teacher: TeacherPlugin
    taken: str
    """Which of the several sets of weights in its file the teacher has."""
    identities: dict[str, Identity]
    """Of the dataset, the space and the teacher, by these names."""
    extractors: dict[str, Identity]
    """The protocol's, with what decides their outputs."""
    lpips: str | None
    """What decides the numbers of LPIPS, where a metric is of it."""
    judge: dict[str, Identity] | None
    """The one that says of a sample which class it shows, where there is one."""
    network: nn.Module | None = None
    """The teacher's without its weights, where it was looked at."""
    scorers: Mapping[str, Identity] = field(default_factory=dict)
    """What decides the networks of metrics of pictures with prompts."""

    @property
    def protocol(self) -> Protocol:
        """The rules of the evaluation."""
        return self.config.protocol

    @property
    def data(self) -> Identity:
        """The identity of the data alone."""
        return self.identities["dataset"]

    @property
    def guidance(self) -> float | None:
        """The scale of the teacher's guidance; None where it has none."""
        guided = isinstance(self.teacher.config, Guided)
        return self.teacher.guidance.scale if guided else None

    @property
    def space(self) -> Identity:
        """The identity of how samples become pictures."""
        return self.identities["space"]


def runtime_of(config: ExperimentConfig) -> Runtime:
    """What the configuration says about this call and machine."""
    inputs = inputs_of(config)
    return Runtime(
        config.plugins,
        Given(config.dataset, config.teacher, config.space, config.extractors, config.rewards),
        config.sample_batch,
        config.save_seconds,
        config.scale,
        inputs,
        tuple(path_of(source, inputs) for source in published_in(config)),
        config.lpips.weights,
        {name: _weights_of(name, entry, inputs) for name, entry in config.scorers.items()},
    )


def _weights_of(metric: str, entry: Any, inputs: str) -> str | None:
    """Where the weights of a metric's network are, if that is said."""
    if metric not in WITH_PROMPTS:
        raise UserError(f"scorers.{metric}: no such metric; {nearest(metric, list(WITH_PROMPTS))}")
    given: WeightsConfig = build_dataclass(WeightsConfig, entry, f"scorers.{metric}")
    return None if given.weights is None else path_of(given.weights, inputs)


def inputs_of(config: ExperimentConfig) -> str:
    """Folder of what is prepared, and of stand-ins for files that nobody gives."""
    return str(Path(config.runs) / "inputs")


def published_in(config: ExperimentConfig) -> list[str]:
    """Where the weights of published students are that the experiment scores."""
    chosen = {n: v for n, v in config.variants.items() if not config.only or n in config.only}
    given = [config.student.checkpoint, *(v.checkpoint for v in chosen.values())]
    return [source for source in dict.fromkeys(given) if source]


def world_of(config: ExperimentConfig, look: bool) -> World:
    """The world of an experiment; with ``look`` data and teacher are tried.

    Raises:
        UserError: with all that is wrong with data, conditions, teacher or extractors.
    """
    runtime = runtime_of(config)
    use_plugins(runtime.folders)
    dataset, teacher, taken, network = _data_and_teacher(config, runtime, look)
    for key, choices in (("extractors", ["NAME"]), ("questions", QUESTIONS)):
        if not getattr(config.protocol, key):
            raise UserError(f"protocol.{key}=[]: at least one of {', '.join(choices)} is needed")
    for name in [*config.protocol.extractors, *(config.protocol.curve_extractors or [])]:
        _check_extractor(name, runtime.extractor_plugin(name), dataset)
    judge = runtime.dataset_plugin().judge
    if judge and LOGITS not in runtime.extractor_plugin(judge).outputs:
        raise UserError(f"dataset.judge={judge}: gives no logits of classes; choose one that does")
    space = runtime.space_plugin().identity()
    name = config.dataset["name"]
    identities: dict[str, Identity] = {
        "dataset": {
            "name": name,
            "settings": dict(runtime.dataset_plugin().identity()),
            "digest": dataset.digest,
            **plugin_source("dataset", name, runtime),
        },
        "space": {
            "name": runtime.space_name,
            "settings": dict(space),
            **plugin_source("space", runtime.space_name, runtime),
        },
        "teacher": {
            "name": config.teacher["name"],
            "settings": dict(teacher.identity()),
            **plugin_source("teacher", config.teacher["name"], runtime),
        },
    }

    def described(name: str) -> Identity:
        with by_its_setting("extractor", name):
            own = runtime.extractor_plugin(name).identity()
        p = config.protocol.precision
        precise = {} if p == "float32" else {"precision": p}
        return {**own, **precise, **plugin_source("extractor", name, runtime)}

    return World(
        config,
        runtime,
        dataset,
        teacher,
        taken,
        identities,
        {name: described(name) for name in config.protocol.extractors},
        _lpips(config),
        {judge: described(judge)} if judge else None,
        network,
        _scorers(config, runtime),
    )


def reward_of(runtime: Runtime, name: str) -> Identity | None:
    """What decides what a reward says, of the data that its stage names; None for none.

    Raises:
        UserError: for an unknown name, or settings that it has not.
    """
    if not name:
        return None
    with by_its_setting("reward", name):
        settings = dict(runtime.reward_plugin(name).identity())
    return {"name": name, "settings": settings, **plugin_source("reward", name, runtime)}


def _scorers(config: ExperimentConfig, runtime: Runtime) -> dict[str, Identity]:
    asked = [name for name in config.protocol.metrics if name in WITH_PROMPTS]
    if not asked:
        return {}
    from piflow_bench.evaluation.scorers import identity_of

    return {name: identity_of(name, runtime.scorers.get(name)) for name in asked}


def _lpips(config: ExperimentConfig) -> str | None:
    if not any("lpips" in name for name in config.protocol.metrics):
        return None
    from piflow_bench.evaluation.metrics.lpips import identity_of

    return identity_of(config.lpips.weights)


def _check_extractor(name: str, extractor: ExtractorPlugin, dataset: Dataset) -> None:
    if extractor.of_points != (dataset.space.pictures is None):
        what = "points" if extractor.of_points else "pictures"
        raise UserError(
            f"protocol.extractors={name}: describes {what}, which the samples of "
            f"{dataset.name} are not"
        )


def _data_and_teacher(
    config: ExperimentConfig, runtime: Runtime, look: bool
) -> tuple[Dataset, TeacherPlugin, str, nn.Module | None]:
    """Data, teacher, which weights it takes, its network; with ``look`` data and teacher are tried.

    Raises:
        UserError: with all that is wrong with data, conditions or teacher.
    """
    name, teacher = config.dataset.get("name"), runtime.teacher_plugin()
    try:
        dataset = runtime.dataset()
        if teacher.guidance.on and isinstance(dataset.train_condition, Unconditional):
            raise UserError(
                f"teacher.guidance={teacher.guidance.scale:g}: {dataset.name} has no classes to "
                "guide by; teacher.guidance=1"
            )
        taken = teacher.look(dataset)
    except (TypeError, ValueError) as error:
        raise UserError(f"dataset={name}: {error}") from error
    network = None
    key = (id(dataset), json.dumps(config.teacher, sort_keys=True))
    if look and key not in _sound:
        problems = dataset_problems(dataset, bool({*OF_DATA} & {*config.protocol.questions}))
        if problems:
            raise UserError(f"dataset {name}: {'; '.join(problems)}")
        network, problems = network_of(dataset, teacher)
        if problems:
            raise UserError(f"teacher {config.teacher['name']}: {'; '.join(problems)}")
        _sound[key] = dataset  # Kept, so that the number is its own.
    return dataset, teacher, taken, network


_sound: dict[tuple[int, str], Dataset] = {}
"""Datasets that were looked at, with the teacher they were."""
