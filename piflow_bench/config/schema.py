"""The experiment as dataclasses: every setting, its type, its default and its range."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.protocols import HALVES, Protocol
from piflow_bench.places import RUNS
from piflow_bench.settings import setting
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings

NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
"""Names of experiments and variants: letters, digits and . _ + -"""


def _solvers() -> list[str]:
    from piflow_bench.flow import SOLVERS

    return list(SOLVERS)


@dataclass
class VariantConfig:
    """A method with its settings, under a name unique in the experiment."""

    method: str = setting("???")
    settings: dict[str, Any] = setting(factory=dict)
    # of the experiment's NFEs, those it is entered at; None: all
    nfes: list[int] | None = setting(None, least=1)
    sampling: dict[str, Any] = setting(factory=dict)  # settings of sample()
    training: dict[str, Any] = setting(factory=dict)  # overrides of the experiment's training
    budget: dict[str, Any] = setting(factory=dict)  # overrides of the experiment's budget
    seed_offset: int = setting(0, least=0)  # added to every train seed (the A/A control)
    # settings of the trainings for one NFE, over the others: {4: {lr: 1e-4}}
    settings_at: dict[int, Any] = setting(factory=dict)
    tuning: str = setting("")  # how the settings were chosen: trials, seeds, split
    trial_of: str = setting("")  # the variant whose settings this one tries; `tune` sets it
    # published weights that are scored in the place of a training: path, or hf://owner/name/folder
    checkpoint: str | None = setting(None)


@dataclass
class FamilyConfig:
    """The comparisons that are tested: those with a leader, or of the entries of a few families."""

    # a trained variant, against every other one in the primary metrics; None: nothing is tested
    leader: str | None = setting(None)
    # where no leader is named, by NFE: a trained variant for each family of methods, chosen on
    # trials; every two of them, in the primary metric of quality
    entries: dict[str, list[str]] = setting(factory=dict)


@dataclass
class StudentConfig:
    """Weights that are scored without training."""

    # path, or hf://owner/name/folder; needs one trained variant
    checkpoint: str | None = setting(None)


@dataclass
class ConvergedConfig:
    """How the teacher is solved to convergence."""

    solver: str = setting("unipc", choices=_solvers)
    steps: int = setting(16, least=1)
    shift: float = setting(1.0, above=0)  # of its times: below 1, more steps are near data
    # the last time before 0, to which the others are stretched; 0: as they are
    terminal: float = setting(0.0, least=0, below=1)

    def __str__(self) -> str:
        words = [f"{self.solver}, {self.steps} steps"]
        words += [f"{name} {value:g}" for name, value in self.warped_for_key().items()]
        return ", ".join(words)

    def warped_for_key(self) -> dict[str, float]:
        """What its times are warped by: keys from before there was any stay as they are."""
        found = {"shift": self.shift} if self.shift != 1 else {}
        return found | ({"terminal": self.terminal} if self.terminal else {})


@dataclass
class Resources:
    """What one job asks of a cluster."""

    minutes: int = setting(240, least=1)
    cpus: int = setting(1, least=1)  # of every process
    memory_gb: float = setting(8.0, above=0)  # of a node
    gpus: int = setting(0, least=0)  # of a node, for a training; others that run networks get one
    nodes: int = setting(1, least=1)  # of a training; other stages use one
    partition: str | None = setting(None)
    account: str | None = setting(None)
    qos: str | None = setting(None)
    constraint: str | None = setting(None)
    extra: dict[str, Any] = setting(factory=dict)  # further sbatch options
    setup: list[str] = setting(factory=list)  # shell lines before the command
    # the command that is Python on a node, such as one inside a container; None: this one
    python: str | None = setting(None)
    srun: list[str] = setting(factory=list)  # further arguments of srun
    pack: int = setting(1, least=1)  # stages that one job makes, one after the other


@dataclass
class LauncherConfig(Resources):
    """Where stages run, and what their jobs ask for."""

    name: str = setting("local", choices=("local", "debug", "slurm"))
    # of stages that end without a word: killed, out of memory, a node lost
    retries: int = setting(2, least=0)
    workers: int | None = setting(None, least=1)  # local; None: cores / threads
    array: int = setting(64, least=1)  # slurm, from here on: jobs of one array that run at once
    grace_seconds: int = setting(120, least=1)  # told before its time limit to keep what it has
    poll_seconds: float = setting(5.0, above=0)
    stages: dict[str, Any] = setting(factory=dict)  # resources by kind of stage
    variants: dict[str, Any] = setting(factory=dict)  # resources by variant


@dataclass
class WeightsConfig:
    """A network that single metrics look with."""

    weights: str | None = setting(None)  # where they are not in the cache folder


@dataclass
class ExperimentConfig:
    """One question: dataset, teacher, variants, seeds, NFEs, budget, protocol."""

    name: str = setting("???", pattern=NAME, words="of letters, digits and . _ + -")
    # the experiment's file, whatever the run is called; only recorded
    experiment_file: str = setting("")
    title: str = setting("")
    question: str = setting("")
    dataset: dict[str, Any] = setting(factory=dict)  # name and settings of a plugin
    teacher: dict[str, Any] = setting(factory=dict)  # the same
    space: dict[str, Any] = setting(factory=dict)  # the same; empty: the dataset's own
    # whether the teacher is measured on real samples first, and a wrong one is refused
    check_teacher: bool = True
    extractors: dict[str, Any] = setting(factory=dict)  # settings of extractors by name
    rewards: dict[str, Any] = setting(factory=dict)  # settings of rewards by name
    lpips: WeightsConfig = setting(factory=WeightsConfig)
    # weights of networks of metrics of pictures with prompts: {METRIC: {weights: FILE}}
    scorers: dict[str, Any] = setting(factory=dict)
    converged: ConvergedConfig = setting(factory=ConvergedConfig)
    protocol: Protocol = setting(factory=Protocol)
    launcher: LauncherConfig = setting(factory=LauncherConfig)
    budget: Budget = setting(factory=Budget)
    training: TrainingSettings = setting(factory=TrainingSettings)
    scale: Scale = setting(factory=Scale)
    nfes: list[int] = setting(factory=lambda: [1, 4], least=1)
    train_seeds: list[int] = setting(factory=lambda: [0], least=0)
    sample_seed: int = setting(0, least=0)
    variants: dict[str, VariantConfig] = setting(factory=dict)
    # a file that `tune` wrote: settings of variants that state none of their own
    tuned: str | None = setting(None)
    # ends of the ranges in which `tune` looks, by setting: {lr: [1e-4, 1e-2]}
    search: dict[str, Any] = setting(factory=dict)
    family: FamilyConfig = setting(factory=FamilyConfig)
    student: StudentConfig = setting(factory=StudentConfig)
    only: list[str] | None = setting(None)
    add: list[str] = setting(factory=list)  # methods entered with their default settings
    aa: bool = False  # enter the first trained variant twice, under two names
    # beside students of one training for all NFEs: specialists whose trainings share one budget
    split_budget: bool = True
    parts: list[str] = setting(factory=list)  # experiments that this one consists of
    references: list[Any] = setting(factory=list)  # published numbers, never ranked
    # samples drawn at once; changes no result beyond rounding
    sample_batch: int = setting(250, least=1)
    # samples of one stage: larger sets are drawn and described in pieces
    shard: int = setting(5000, least=1)
    save_seconds: float = setting(20.0, least=0)  # between two states of a stage in progress
    # event files of every training, in the run's folder; needs TensorBoard
    logger: str | None = setting(None, choices=("tensorboard",))
    store: str | None = setting(None)
    runs: str = setting(RUNS)
    plugins: Any = setting(None)  # a file or folder of methods, or several: a,b
    smoke: dict[str, Any] = setting(factory=dict)  # settings by key under profile=smoke
    is_smoke: bool = False


SPLIT = "-split"
"""The end of the name of a variant's twin that has one budget for all NFEs; `only` may name it."""


def keys_that_set(config: ExperimentConfig, optimizer: str) -> list[str]:
    """The keys by which the chosen variants ask for an optimizer."""
    found: dict[str, None] = {}
    for name, entry in config.variants.items():
        if not config.only or name in config.only:
            own = entry.training.get("optimizer")
            if (own or config.training.optimizer) == optimizer:
                found[f"variants.{name}.training.optimizer" if own else "training.optimizer"] = None
    return list(found)


def checked(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment; UserError for values that no type and no range of a field refuses."""
    if len(set(config.nfes)) != len(config.nfes) or not config.nfes:
        raise UserError(f"nfes={config.nfes}: must be distinct and not empty")
    if len(set(config.train_seeds)) != len(config.train_seeds) or not config.train_seeds:
        raise UserError(f"train_seeds={config.train_seeds}: must be distinct and not empty")
    if config.protocol.curve_extractors == []:
        raise UserError("protocol.curve_extractors=[]: at least one is needed, or null: the first")
    for key in ("questions", "extractors", "metrics", "curve_metrics", "curve_extractors"):
        names = getattr(config.protocol, key) or []
        if len(set(names)) != len(names):
            raise UserError(f"protocol.{key}={names}: must be distinct")
    halves = [q for q in HALVES if q in config.protocol.questions]
    if len(halves) == 1:
        raise UserError(
            f"protocol.questions: {halves[0]} without the other half; give {' and '.join(HALVES)}"
        )
    for name in config.variants:
        if not re.fullmatch(NAME, name) or "." in name:  # A dot begins a setting's own name.
            raise UserError(f"variant {name!r}: letters, digits and _ + - only")
    for name, variant in config.variants.items():
        if variant.nfes == []:
            raise UserError(
                f"variants.{name}.nfes=[]: name at least one NFE, or null for all; "
                "only=[NAME,...] leaves a variant out"
            )
    for name in config.only or []:
        if name.removesuffix(SPLIT) not in config.variants and name not in config.variants:
            raise UserError(f"only={name}: no such variant; {nearest(name, list(config.variants))}")
    _check_family(config)
    if config.only == []:
        raise UserError("only=[]: name at least one variant, or leave it out")
    return config


def _check_family(config: ExperimentConfig) -> None:
    leader, entries = config.family.leader, config.family.entries
    named = {"leader": [leader] if leader is not None else []}
    for nfe in entries:
        if not nfe.isdecimal() or int(nfe) < 1:
            raise UserError(f"family.entries.{nfe}: must be an NFE, a whole number from 1 on")
    named |= {f"entries.{nfe}": names for nfe, names in entries.items()}
    for key, names in named.items():
        for name in names:
            if name not in config.variants:
                raise UserError(
                    f"family.{key}={name}: no such variant; {nearest(name, list(config.variants))}"
                )
        if len(set(names)) < len(names):
            raise UserError(f"family.{key}={names}: must be distinct")
    for nfe, names in entries.items():
        for name in names:
            own = config.variants[name].nfes
            if own is not None and int(nfe) not in own:
                raise UserError(f"family.entries.{nfe}={name}: it is entered at NFE {own} alone")


def to_plain(instance: Any) -> Any:
    """A dataclass (or container of them) as plain JSON values."""
    if dataclasses.is_dataclass(instance) and not isinstance(instance, type):
        return {f.name: to_plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}
    if isinstance(instance, Mapping):
        return {str(k): to_plain(v) for k, v in instance.items()}
    if isinstance(instance, list | tuple):
        return [to_plain(v) for v in instance]
    return instance
