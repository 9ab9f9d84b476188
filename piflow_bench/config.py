"""Compose and validate an experiment: hydra under the verbs, typed by the dataclasses below."""

from __future__ import annotations

import dataclasses
import itertools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from piflow_bench.errors import UserError, nearest

PATH_KEYS = ("store", "runs", "plugins", "checkpoint", "samples", "reference", "out")
"""Keys whose values are taken literally, before hydra's grammar: any character may occur."""


@dataclass
class VariantConfig:
    """A method with its settings, under a name unique in the experiment."""

    method: str = "???"
    settings: dict[str, Any] = field(default_factory=dict)
    nfes: list[int] | None = None  # of the experiment's NFEs, those it is entered at; None: all
    sampling: dict[str, Any] = field(default_factory=dict)  # settings of sample()
    training: dict[str, Any] = field(default_factory=dict)  # overrides of the experiment's training
    seed_offset: int = 0  # added to every train seed (the A/A control)
    tuning: str = ""  # how the settings were chosen: trials, seeds, split


@dataclass
class DatasetConfig:
    """Dataset plugin and its settings."""

    name: str = "???"
    settings: dict[str, Any] = field(default_factory=dict)
    fit_backbone: bool = False  # closed-form teachers: a network is fitted as common start


@dataclass
class ConvergedConfig:
    """How the teacher is solved to convergence."""

    solver: str = "unipc"
    steps: int = 16
    shards: int = 4


@dataclass
class ProtocolConfig:
    """The fixed rules of the evaluation; its hash is on every row."""

    name: str = "???"
    samples: int = 2000
    curve_samples: int = 1000  # at earlier checkpoints of the budget
    data_samples: int = 1400  # of the samples, those compared with held-out data
    reference_samples: int = 20000
    reference_seed: int = 1_000_003
    questions: list[str] = field(default_factory=lambda: ["imitation", "data"])
    extractors: list[str] = field(default_factory=lambda: ["classifier", "pixels"])
    metrics: list[str] = field(default_factory=list)
    curve_metrics: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  # of the metrics
    agreement: str | None = "teacher_mse"  # name of the same-noise distance to the teacher
    primary_question: str = "imitation"
    primary_quality: str = "fd"
    primary_diversity: str = "recall"


@dataclass
class LauncherConfig:
    """Where stages run."""

    name: str = "local"  # local | debug
    workers: int | None = None  # None: cores / threads


@dataclass
class BudgetConfig:
    """Training compute per variant (see piflow_bench.training.settings.Budget)."""

    unit: str = "tfe"
    amount: float = 5000.0
    checkpoints: list[float] = field(default_factory=lambda: [0.125, 0.25, 0.5, 1.0])


@dataclass
class EMAConfig:
    """See piflow_bench.training.settings.EMASettings."""

    kind: str = "power"
    gamma: float = 7.0
    decay: float = 0.999


@dataclass
class TrainingConfig:
    """See piflow_bench.training.settings.TrainingSettings."""

    batch: int = 64
    micro_batches: int = 1
    precision: str = "fp32"
    clip: float = 50.0
    warmup: int = 20
    ema: EMAConfig = field(default_factory=EMAConfig)
    threads: int = 1


@dataclass
class ExperimentConfig:
    """One question: dataset, teacher, variants, seeds, NFEs, budget, protocol."""

    name: str = "???"
    title: str = ""
    question: str = ""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    converged: ConvergedConfig = field(default_factory=ConvergedConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    nfes: list[int] = field(default_factory=lambda: [1, 4])
    train_seeds: list[int] = field(default_factory=lambda: [0])
    sample_seed: int = 0
    variants: dict[str, VariantConfig] = field(default_factory=dict)
    only: list[str] | None = None
    aa: bool = False
    references: list[Any] = field(default_factory=list)  # published numbers, never ranked
    sample_batch: int = 250  # samples drawn at once; changes no result beyond rounding
    save_seconds: float = 20.0  # between two states of a training run
    store: str | None = None
    runs: str = "runs"
    plugins: str | None = None
    checkpoint: str | None = None  # another teacher checkpoint for the dataset


# ------------------------------------------------------------------ composing


def split_paths(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separate path-valued ``key=value`` arguments, whose values are literal, from overrides."""
    overrides, paths = [], {}
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"unknown flag {argument}; settings are given as key=value, see --help")
        key, sign, value = argument.partition("=")
        if not sign:
            raise UserError(f"'{argument}': settings are given as key=value")
        if key in PATH_KEYS:
            if not value:
                raise UserError(f"{key}=: needs a path")
            paths[key] = value
        else:
            overrides.append(argument)
    return overrides, paths


def _register_third_party_configs() -> None:
    """Let hydra search the packages of the entry-point group ``piflow_bench.configs``."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    from piflow_bench.registry import find

    class PiflowBenchConfigs(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for plugin in find("config").values():
                if plugin.name != "builtin":
                    package = plugin.load()
                    search_path.append(plugin.source, f"pkg://{package.__name__}")

    Plugins.instance().register(PiflowBenchConfigs)


def compose(arguments: Sequence[str]) -> list[ExperimentConfig]:
    """The experiments that the arguments describe: one, or several where a value is ``a,b``.

    Raises:
        UserError: naming the key, the value and the nearest valid one.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides, paths = split_paths(arguments)
    ConfigStore.instance().store(name="schema", node=ExperimentConfig)
    _register_third_party_configs()
    GlobalHydra.instance().clear()
    with initialize_config_module("piflow_experiments", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = {g: loader.get_group_options(g) for g in loader.list_groups("")}
        try:
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        except HydraException as error:
            raise UserError(str(error).splitlines()[0]) from error
        choices = []
        for override in parsed:
            key = override.key_or_group
            if key in groups:
                _check_group(key, override, groups[key])
            if override.is_sweep_override():
                choices.append([f"{key}={v}" for v in override.sweep_string_iterator()])
            else:
                choices.append([override.input_line or ""])
        experiments = []
        for combination in itertools.product(*choices):
            try:
                composed = hydra_compose("config", overrides=list(combination))
                container = OmegaConf.to_object(composed)
            except (HydraException, OmegaConfBaseException) as error:
                raise UserError(_explain(error, combination, loader)) from error
            except Exception as error:
                if type(error).__module__.startswith("yaml"):
                    text = " ".join(str(error).split())
                    raise UserError(f"configuration file: {text}") from error
                raise
            assert isinstance(container, ExperimentConfig)
            for key, value in paths.items():
                if not hasattr(container, key):
                    raise UserError(f"{key}=: not a setting of this verb")
                setattr(container, key, value)
            experiments.append(_checked(container))
    return experiments


def _check_group(key: str, override: Any, options: list[str]) -> None:
    value = override.value()
    values = (
        [str(v) for v in override.sweep_iterator()]
        if override.is_sweep_override()
        else [str(value)]
    )
    for name in values:
        if name not in options and name != "None":
            raise UserError(f"{key}={name}: no such {key}; {nearest(name, options)}")


def _flat_keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _flat_keys(value, f"{prefix}{name}.")
    return keys


def _explain(error: Exception, overrides: Sequence[str], loader: Any) -> str:
    """One line for a composition error: the key, the value, the nearest valid key."""
    from hydra import compose as hydra_compose
    from omegaconf import OmegaConf

    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause)
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        groups = [o for o in overrides if o.partition("=")[0] in ("experiment", "profile", "dataset")]
        try:
            valid = _flat_keys(
                OmegaConf.to_container(hydra_compose("config", overrides=groups), resolve=False)
            )
        except Exception:
            valid = []
        if valid and key not in valid and key.split(".")[-1] in text or f"'{key}'" in str(error):
            if valid and key not in valid:
                return f"{key}: no such setting; {_nearest_key(key, valid)}"
    key_match = re.search(r"full_key: (\S+)", text)
    first = text.splitlines()[0]
    if key_match and key_match.group(1):
        return f"{key_match.group(1)}: {first}"
    return first


def _nearest_key(key: str, valid: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    if not close:
        last = key.split(".")[-1]
        close = [
            k
            for k in valid
            if k.split(".")[-1] in difflib.get_close_matches(last, [v.split(".")[-1] for v in valid])
        ][:1]
    return f"did you mean '{close[0]}'?" if close else "see `piflow_bench show`"


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def _checked(config: ExperimentConfig) -> ExperimentConfig:
    if not NAME.fullmatch(config.name):
        raise UserError(f"name={config.name!r}: letters, digits and . _ + - only")
    for nfe in config.nfes + [n for v in config.variants.values() for n in v.nfes or []]:
        if nfe < 1:
            raise UserError(f"nfes: {nfe} is not a number of network evaluations; must be >= 1")
    if not config.nfes:
        raise UserError("nfes=[]: at least one number of network evaluations is needed")
    if len(set(config.train_seeds)) != len(config.train_seeds) or not config.train_seeds:
        raise UserError(f"train_seeds={config.train_seeds}: must be distinct and not empty")
    for name in config.variants:
        if not NAME.fullmatch(name):
            raise UserError(f"variant {name!r}: letters, digits and . _ + - only")
    for name in config.only or []:
        if name not in config.variants:
            raise UserError(f"only={name}: no such variant; {nearest(name, list(config.variants))}")
    if config.launcher.workers is not None and config.launcher.workers < 1:
        raise UserError(f"launcher.workers={config.launcher.workers}: must be at least 1")
    if config.launcher.name not in ("local", "debug"):
        raise UserError(f"launcher.name={config.launcher.name}: must be local or debug")
    for key in ("samples", "curve_samples", "data_samples", "reference_samples"):
        if getattr(config.protocol, key) < 20:
            raise UserError(f"protocol.{key}={getattr(config.protocol, key)}: must be at least 20")
    return config


# ------------------------------------------------------------------ typed settings


def _fits(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, k) for k in typing.get_args(kind))
    if kind is type(None):
        return value is None
    if origin in (list, tuple):
        return isinstance(value, list | tuple)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


def build_dataclass(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """An instance of a settings dataclass, from plain values.

    Raises:
        UserError: naming the key, its value, and the nearest valid key or the right type.
    """
    hints = typing.get_type_hints(cls)
    valid = [f.name for f in dataclasses.fields(cls)]
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in valid:
            raise UserError(f"{where}.{key}: no such setting; {nearest(key, valid)}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            converted[key] = build_dataclass(kind, value, f"{where}.{key}")
            continue
        if not _fits(value, kind):
            name = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
            raise UserError(f"{where}.{key}={value}: must be {name}")
        if typing.get_origin(kind) is tuple:
            value = tuple(value)
        converted[key] = float(value) if kind is float else value
    try:
        return cls(**converted)
    except ValueError as error:
        raise UserError(f"{where}.{error}" if "=" in str(error) else f"{where}: {error}") from error
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def to_plain(instance: Any) -> Any:
    """A dataclass (or container of them) as plain JSON values."""
    if dataclasses.is_dataclass(instance) and not isinstance(instance, type):
        return {f.name: to_plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}
    if isinstance(instance, Mapping):
        return {str(k): to_plain(v) for k, v in instance.items()}
    if isinstance(instance, list | tuple):
        return [to_plain(v) for v in instance]
    return instance
