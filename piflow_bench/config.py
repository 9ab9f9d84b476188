"""Compose and validate an experiment: hydra under the verbs, typed by the dataclasses below."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from piflow_bench.errors import UserError, nearest
from piflow_bench.training.scale import Scale

PATH_KEYS = (
    "store",
    "runs",
    "plugins",
    "checkpoint",
    "samples",
    "reference",
    "out",
    "extractor.weights",
    "student.checkpoint",
    "dataset.settings.latents",
    "dataset.settings.reference",
    "dataset.settings.autoencoder",
    "dataset.settings.weights",
)
"""Keys whose values are taken literally, before hydra's grammar: any character may occur."""


@dataclass
class VariantConfig:
    """A method with its settings, under a name unique in the experiment."""

    method: str = "???"
    settings: dict[str, Any] = field(default_factory=dict)
    nfes: list[int] | None = None  # of the experiment's NFEs, those it is entered at; None: all
    sampling: dict[str, Any] = field(default_factory=dict)  # settings of sample()
    training: dict[str, Any] = field(default_factory=dict)  # overrides of the experiment's training
    budget: dict[str, Any] = field(default_factory=dict)  # overrides of the experiment's budget
    seed_offset: int = 0  # added to every train seed (the A/A control)
    tuning: str = ""  # how the settings were chosen: trials, seeds, split


@dataclass
class DatasetConfig:
    """Dataset plugin and its settings."""

    name: str = "???"
    settings: dict[str, Any] = field(default_factory=dict)
    fit_backbone: bool = False  # closed-form teachers: a network is fitted as common start


@dataclass
class StudentConfig:
    """Weights that are scored without training."""

    checkpoint: str | None = None  # path, or hf://owner/name/folder; needs one trained variant


@dataclass
class ConvergedConfig:
    """How the teacher is solved to convergence."""

    solver: str = "unipc"
    steps: int = 16


@dataclass
class ProtocolConfig:
    """The fixed rules of the evaluation; its hash is on every row."""

    name: str = "???"
    samples: int = 2000
    curve_samples: int = 1000  # at earlier checkpoints of the budget
    data_samples: int = 1400  # of the samples, those compared with held-out data
    reference_samples: int = 20000
    reference_seed: int = 1_000_003
    precision: str = "fp32"  # of sampling: fp32 | bf16 (autocast)
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

    name: str = "local"  # local | debug | slurm
    retries: int = 2  # of stages that end without a word: killed, out of memory, a node lost
    workers: int | None = None  # local; None: cores / threads
    minutes: int = 240  # slurm, from here on: of a job
    cpus: int = 1
    memory_gb: float = 8.0
    gpus: int = 0
    nodes: int = 1
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # further sbatch options
    setup: list[str] = field(default_factory=list)  # shell lines before the command
    python: str | None = None  # the command that is Python on a node; None: this one
    srun: list[str] = field(default_factory=list)  # further arguments of srun
    pack: int = 1  # stages that one job makes, one after the other
    array: int = 64  # jobs of one array that run at once
    grace_seconds: int = 120  # before its time limit a job is told to keep what it has
    poll_seconds: float = 5.0
    stages: dict[str, Any] = field(default_factory=dict)  # resources by kind of stage
    variants: dict[str, Any] = field(default_factory=dict)  # resources by variant


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
    precision: str = "fp32"
    clip: float = 50.0
    warmup: int = 20
    ema: EMAConfig = field(default_factory=EMAConfig)
    threads: int = 1
    optimizer: str = "adamw"
    checkpointing: bool = False


@dataclass
class ScaleConfig:
    """See piflow_bench.training.scale.Scale: changes no result beyond rounding."""

    device: str = "cpu"
    processes: int = 1
    parallel: str = "ddp"
    micro_batch: int | None = None
    compile: bool = False


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
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    nfes: list[int] = field(default_factory=lambda: [1, 4])
    train_seeds: list[int] = field(default_factory=lambda: [0])
    sample_seed: int = 0
    variants: dict[str, VariantConfig] = field(default_factory=dict)
    student: StudentConfig = field(default_factory=StudentConfig)
    only: list[str] | None = None
    add: list[str] = field(default_factory=list)  # methods entered with their default settings
    aa: bool = False  # enter the first trained variant twice, under two names
    parts: list[str] = field(default_factory=list)  # experiments that this one consists of
    references: list[Any] = field(default_factory=list)  # published numbers, never ranked
    sample_batch: int = 250  # samples drawn at once; changes no result beyond rounding
    shard: int = 5000  # samples of one stage: larger sets are drawn and described in pieces
    save_seconds: float = 20.0  # between two states of a stage in progress
    store: str | None = None
    runs: str = "runs"
    plugins: str | None = None
    checkpoint: str | None = None  # another teacher checkpoint for the dataset
    smoke: dict[str, Any] = field(default_factory=dict)  # settings by key under profile=smoke
    is_smoke: bool = False


# ------------------------------------------------------------------ composing


def split_paths(
    arguments: Sequence[str], keys: Sequence[str] = PATH_KEYS
) -> tuple[list[str], dict[str, str]]:
    """Separate path-valued ``key=value`` arguments, whose values are literal, from overrides."""
    overrides, paths = [], {}
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"unknown flag {argument}; settings are given as key=value, see --help")
        key, sign, value = argument.partition("=")
        if not sign:
            raise UserError(f"'{argument}': settings are given as key=value")
        if key in keys:
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

    from piflow_bench.registry import PluginError, find

    class PiflowBenchConfigs(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for plugin in find("config").values():
                if plugin.name == "builtin":
                    continue
                try:
                    package = plugin.load()
                except PluginError as error:  # It must not break the others.
                    print(f"warning: {error}", file=sys.stderr)
                    continue
                search_path.append(plugin.source, f"pkg://{package.__name__}")

    Plugins.instance().register(PiflowBenchConfigs)


def keys_that_set(config: ExperimentConfig, optimizer: str) -> list[str]:
    """The keys by which the chosen variants ask for an optimizer."""
    found: dict[str, None] = {}
    for name, entry in config.variants.items():
        if not config.only or name in config.only:
            own = entry.training.get("optimizer")
            if (own or config.training.optimizer) == optimizer:
                found[f"variants.{name}.training.optimizer" if own else "training.optimizer"] = None
    return list(found)


def compose(arguments: Sequence[str]) -> list[ExperimentConfig]:
    """The experiments that the arguments describe: one, or several where a value is ``a,b``.

    Raises:
        UserError: naming the key, the value and the nearest valid one.
    """
    return [config for _, config in expand(arguments)]


def expand(arguments: Sequence[str]) -> list[tuple[list[str], ExperimentConfig]]:
    """``compose``, each experiment with the settings that describe it alone."""
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
            parser = OverridesParser.create(config_loader=loader)
            parsed = []
            for given in overrides:
                parsed.append(parser.parse_override(_open(given)))
        except HydraException as error:
            raise UserError(
                f"{given}: {str(error).splitlines()[0]}; values with special characters are "
                "quoted, as in \"title='a, b'\""
            ) from error
        choices = []
        swept = []
        for override in parsed:
            key = override.key_or_group
            if key.partition(".")[0] == "hydra":
                raise UserError(f"{key}: no such setting; see `piflow_bench show`")
            if key in groups:
                _check_group(key, override, groups[key])
            if override.is_sweep_override():
                sign = (override.input_line or "").partition(key)[0]
                values = list(override.sweep_string_iterator())
                choices.append([f"{sign}{key}={v}" for v in values])
                swept.append(["" if key == "experiment" else f"{key}={v}" for v in values])
            else:
                choices.append([override.input_line or ""])
        found: list[tuple[list[str], ExperimentConfig]] = []
        parts: list[str] = []
        for combination in itertools.product(*choices):
            try:
                composed = hydra_compose("config", overrides=list(combination))
                if composed.is_smoke:
                    given = {o.partition("=")[0].lstrip("+") for o in combination} | set(paths)
                    for key, value in composed.smoke.items():
                        if key not in given:
                            OmegaConf.update(
                                composed, key, value, force_add=bool(OPEN.match(f"{key}="))
                            )
                container = OmegaConf.to_object(composed)
            except (HydraException, OmegaConfBaseException) as error:
                raise UserError(_explain(error, combination, loader)) from error
            except Exception as error:
                if type(error).__module__.startswith("yaml"):
                    text = " ".join(str(error).split())
                    raise UserError(f"configuration file: {text}") from error
                raise
            assert isinstance(container, ExperimentConfig)
            if container.parts:
                parts = container.parts
                break
            for key, value in paths.items():
                _set_path(container, key, value)
            _refuse_unknown(container)
            own = [*combination, *(f"{key}={value}" for key, value in paths.items())]
            found.append((own, _checked(container)))
    apart = [" ".join(values) for values in itertools.product(*swept)]
    if parts:
        rest = [a for a in arguments if a.partition("=")[0] != "experiment"]
        several = {part: expand([f"experiment={part}", *rest]) for part in parts}
        found = [pair for part in parts for pair in several[part]]
        apart = [part for part in parts for _ in several[part]]
    return _apart(found, apart)


def _set_path(container: ExperimentConfig, key: str, value: str) -> None:
    """Set a path-valued key, which hydra never saw."""
    place: Any = container
    *parents, last = key.split(".")
    for parent in parents:
        place = getattr(place, parent, None) if not isinstance(place, dict) else place.get(parent)
    if isinstance(place, dict):
        place[last] = value
    elif hasattr(place, last):
        setattr(place, last, value)
    else:
        raise UserError(f"{key}=: not a setting of this verb")


OPEN = re.compile(
    r"(variants\.[^.=]+\.(settings|sampling|training|budget)|(protocol|dataset)\.settings|"
    r"launcher\.(stages|variants|extra))[.=]"
)
"""Settings that plugins declare: any may be given, whether a file names it or not."""


def _open(override: str) -> str:
    """The override, allowed to add a key where a plugin says which keys there are."""
    return f"++{override}" if OPEN.match(override) else override


def _refuse_unknown(instance: Any, where: str = "") -> None:
    """Settings that `+key=value` added to a dataclass that has no such field."""
    valid = [f.name for f in dataclasses.fields(instance)]
    for key, value in vars(instance).items():
        if key not in valid:
            raise UserError(f"{where}{key}: no such setting; {nearest(key, valid)}")
        if dataclasses.is_dataclass(value):
            _refuse_unknown(value, f"{where}{key}.")


def _apart(
    found: list[tuple[list[str], ExperimentConfig]], swept: list[str]
) -> list[tuple[list[str], ExperimentConfig]]:
    """Give experiments of one name names of their own: each has a folder under ``runs``."""
    experiments = [e for _, e in found]
    names = [e.name for e in experiments]
    for (settings, experiment), values in zip(found, swept, strict=True):
        if names.count(experiment.name) > 1:
            suffix = re.sub(r"[^A-Za-z0-9._+]+", "-", values).strip("-")
            name = f"{experiment.name}-{suffix}"
            taken = [e.name for e in experiments]
            if name in taken or not NAME.fullmatch(name):
                digest = hashlib.sha256(values.encode()).hexdigest()[:8]
                name = f"{name[:55]}-{digest}"
            experiment.name = name
            settings[:] = [s for s in settings if s.partition("=")[0] != "name"]
            settings.append(f"name={name}")
    return found


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
    groups = loader.list_groups("")
    chosen = [o for o in overrides if o.partition("=")[0] in groups]
    try:
        composed = OmegaConf.to_container(hydra_compose("config", overrides=chosen), resolve=False)
        assert isinstance(composed, Mapping)
        valid = _flat_keys(composed) + groups
        variants = list(composed["variants"])
    except Exception:
        valid, variants = [], []
    first = text.splitlines()[0]
    for override in overrides if valid else []:
        key, _, value = override.lstrip("+~").partition("=")
        parts = key.split(".")
        if parts[0] == "variants" and len(parts) > 1 and parts[1] not in variants:
            return (
                f"variants.{parts[1]}: no such variant; {nearest(parts[1], variants)} New ones are "
                "written in an experiment's file"
            )
        if key not in valid and (parts[-1] in text or f"'{key}'" in str(error)):
            return f"{key}: no such setting; {_nearest_key(key, valid)}"
    key_match = re.search(r"full_key: (\S+)", text)
    if key_match and key_match.group(1):
        full = key_match.group(1)
        for override in overrides:
            key, _, value = override.lstrip("+~").partition("=")
            if key == full.partition("[")[0]:
                if "ListConfig" in first:
                    first = f"must be a list, such as {key}=[{value}]"
                return f"{key}={value}: {first}"
        return f"{full}: {first}"
    return first


def _nearest_key(key: str, valid: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    if not close:
        last = key.split(".")[-1]
        close = [
            k
            for k in valid
            if k.split(".")[-1]
            in difflib.get_close_matches(last, [v.split(".")[-1] for v in valid])
        ][:1]
    return f"did you mean '{close[0]}'?" if close else "see `piflow_bench show`"


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def _checked(config: ExperimentConfig) -> ExperimentConfig:
    if not NAME.fullmatch(config.name):
        raise UserError(f"name={config.name!r}: letters, digits and . _ + - only")
    for nfe in config.nfes + [n for v in config.variants.values() for n in v.nfes or []]:
        if nfe < 1:
            raise UserError(f"nfes: {nfe} is not a number of network evaluations; must be >= 1")
    if len(set(config.nfes)) != len(config.nfes) or not config.nfes:
        raise UserError(f"nfes={config.nfes}: must be distinct and not empty")
    if len(set(config.train_seeds)) != len(config.train_seeds) or not config.train_seeds:
        raise UserError(f"train_seeds={config.train_seeds}: must be distinct and not empty")
    for name in config.add:
        if name in config.variants:
            raise UserError(f"add={name}: the experiment has a variant of that name already")
        config.variants[name] = VariantConfig(method=name)
    for name in config.variants:
        if not NAME.fullmatch(name):
            raise UserError(f"variant {name!r}: letters, digits and . _ + - only")
    for name in config.only or []:
        if name not in config.variants:
            raise UserError(f"only={name}: no such variant; {nearest(name, list(config.variants))}")
    if config.only == []:
        raise UserError("only=[]: name at least one variant, or leave it out")
    limits = {
        "launcher.workers": (config.launcher.workers, 1),
        "launcher.retries": (config.launcher.retries, 0),
        "converged.steps": (config.converged.steps, 1),
        "shard": (config.shard, 1),
        "sample_batch": (config.sample_batch, 1),
        "sample_seed": (config.sample_seed, 0),
        "protocol.reference_seed": (config.protocol.reference_seed, 0),
        "train_seeds": (min(config.train_seeds), 0),
        "save_seconds": (config.save_seconds, 0),
    }
    for key, (value, least) in limits.items():
        if value is not None and value < least:
            raise UserError(f"{key}={value}: must be at least {least}")
    if config.launcher.name not in ("local", "debug", "slurm"):
        raise UserError(f"launcher.name={config.launcher.name}: must be local, debug or slurm")
    for key in ("samples", "curve_samples", "data_samples", "reference_samples"):
        if getattr(config.protocol, key) < 20:
            raise UserError(f"protocol.{key}={getattr(config.protocol, key)}: must be at least 20")
    build_dataclass(Scale, to_plain(config.scale), "scale")  # For verbs that make no plan.
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
            hint = f"; lists are written [{value}]" if "list" in name else ""
            raise UserError(f"{where}.{key}={value}: must be {name}{hint}")
        if typing.get_origin(kind) is tuple:
            value = tuple(value)
        converted[key] = float(value) if kind is float else value
    try:
        return cls(**converted)
    except ValueError as error:
        # The message may begin with the name of the settings: once is enough.
        text = str(error).removeprefix(f"{where.rpartition('.')[2]}.")
        sign = "." if re.match(r"[\w.]+[=:]", text) else ": "
        raise UserError(f"{where}{sign}{text}") from error
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
