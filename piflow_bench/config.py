"""Compose and validate an experiment: hydra under the verbs, typed by the dataclasses below."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import sys
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from piflow_bench.entered import METHOD, entered_first, speaks_of_variants
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import all_metrics
from piflow_bench.experiment_files import ENDINGS, PREFIX, OwnFile, read_given
from piflow_bench.file_plugins import places
from piflow_bench.settings import build_dataclass, setting
from piflow_bench.training.scale import Scale
from piflow_bench.training.settings import Budget, TrainingSettings

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


NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
"""Names of experiments and variants: letters, digits and . _ + -"""
QUESTIONS = ("imitation", "data", "truth")


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
    tuning: str = setting("")  # how the settings were chosen: trials, seeds, split


@dataclass
class DatasetConfig:
    """Dataset plugin and its settings."""

    name: str = setting("???")
    settings: dict[str, Any] = setting(factory=dict)
    fit_backbone: bool = False  # closed-form teachers: a network is fitted as common start


@dataclass
class FamilyConfig:
    """The comparisons that are tested: every variant against the leader, in the primary metrics."""

    # a trained variant; None: differences are described, not tested
    leader: str | None = setting(None)


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

    def __str__(self) -> str:
        shifted = "" if self.shift == 1 else f", shift {self.shift:g}"
        return f"{self.solver}, {self.steps} steps{shifted}"

    def shift_for_key(self) -> dict[str, float]:
        """The shift, where there is one: keys from before there was any stay as they are."""
        return {} if self.shift == 1 else {"shift": self.shift}


@dataclass
class ProtocolConfig:
    """The fixed rules of the evaluation; its hash is on every row."""

    name: str = setting("???")
    samples: int = setting(2000, least=20)
    curve_samples: int = setting(1000, least=20)  # at earlier checkpoints of the budget
    data_samples: int = setting(1400, least=20)  # of the samples, those compared with held-out data
    reference_samples: int = setting(20000, least=20)
    reference_seed: int = setting(1_000_003, least=0)
    precision: str = setting("fp32", choices=("fp32", "bf16"))  # of sampling; bf16: autocast
    questions: list[str] = setting(factory=lambda: ["imitation", "data"], choices=QUESTIONS)
    extractors: list[str] = setting(factory=lambda: ["classifier", "pixels"])
    metrics: list[str] = setting(factory=list, choices=all_metrics)
    curve_metrics: list[str] = setting(factory=list, choices=all_metrics)
    settings: dict[str, Any] = setting(factory=dict)  # of the metrics
    # the same-noise distance to the teacher
    agreement: str | None = setting("teacher_mse", choices=("teacher_mse", "flow_map_error"))
    primary_question: str = setting("imitation", choices=QUESTIONS)
    primary_quality: str = setting("fd", choices=all_metrics)
    primary_diversity: str = setting("recall", choices=all_metrics)


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
class ExperimentConfig:
    """One question: dataset, teacher, variants, seeds, NFEs, budget, protocol."""

    name: str = setting("???", pattern=NAME, words="of letters, digits and . _ + -")
    # the experiment's file, whatever the run is called; only recorded
    experiment_file: str = setting("")
    title: str = setting("")
    question: str = setting("")
    dataset: DatasetConfig = setting(factory=DatasetConfig)
    converged: ConvergedConfig = setting(factory=ConvergedConfig)
    protocol: ProtocolConfig = setting(factory=ProtocolConfig)
    launcher: LauncherConfig = setting(factory=LauncherConfig)
    budget: Budget = setting(factory=Budget)
    training: TrainingSettings = setting(factory=TrainingSettings)
    scale: Scale = setting(factory=Scale)
    nfes: list[int] = setting(factory=lambda: [1, 4], least=1)
    train_seeds: list[int] = setting(factory=lambda: [0], least=0)
    sample_seed: int = setting(0, least=0)
    variants: dict[str, VariantConfig] = setting(factory=dict)
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
    runs: str = setting("runs")
    plugins: Any = setting(None)  # a file or folder of methods, or several: a,b
    checkpoint: str | None = setting(None)  # another teacher checkpoint for the dataset
    smoke: dict[str, Any] = setting(factory=dict)  # settings by key under profile=smoke
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
            hint = f"; did you mean experiment={argument}?" if argument.endswith(ENDINGS) else ""
            raise UserError(f"'{argument}': settings are given as key=value{hint}")
        if key in keys:
            if not value:
                raise UserError(f"{key}=: needs a path")
            if key == "plugins" and key in paths:
                raise UserError(
                    f"{argument}: is given twice; several are plugins={paths[key]},{value}"
                )
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
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    overrides, paths = split_paths(arguments)
    ConfigStore.instance().store(name="schema", node=_schema())
    _register_third_party_configs()
    GlobalHydra.instance().clear()
    with initialize_config_module("piflow_experiments", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = {
            g: [name for name in loader.get_group_options(g) if not name.startswith(PREFIX)]
            for g in loader.list_groups("")
        }
        overrides, files = read_given(overrides, ExperimentConfig, groups)
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
        named = any(override.key_or_group == "name" for override in parsed)
        for override in parsed:
            key = override.key_or_group
            if key.partition(".")[0] == "hydra":
                raise UserError(f"{key}: no such setting; see `piflow_bench show`")
            if key in groups:
                _check_group(key, override, groups[key], files)
            _refuse_no_truth(override)
            if override.is_sweep_override():
                sign = (override.input_line or "").partition(key)[0]
                values = list(override.sweep_string_iterator())
                choices.append([f"{sign}{key}={v}" for v in values])
                own_names = key == "experiment" and not named
                called = [files[v].name if v in files else v for v in values]
                swept.append(["" if own_names else f"{key}={v}" for v in called])
            else:
                choices.append([override.input_line or ""])
        found: list[tuple[list[str], ExperimentConfig, str]] = []
        for combination, values in zip(
            itertools.product(*choices), itertools.product(*swept), strict=True
        ):
            words = " ".join(v for v in values if v)
            try:
                composed = _composed(list(combination), groups)
                chosen = str(composed.hydra.runtime.choices["experiment"])
                own_file = files.get(chosen)
                with open_dict(composed):
                    del composed["hydra"]
                    composed.experiment_file = str(own_file.path) if own_file else chosen
                if own_file and not named:
                    composed.name = own_file.name
                if composed.is_smoke and not named:  # Never where results are.
                    composed.name = f"{composed.name[:58]}-smoke"
                if composed.is_smoke:
                    given = {o.partition("=")[0].lstrip("+") for o in combination} | set(paths)
                    for key, value in composed.smoke.items():
                        if key not in given:
                            OmegaConf.update(
                                composed, key, value, force_add=bool(OPEN.match(f"{key}="))
                            )
                plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
            except (HydraException, OmegaConfBaseException) as error:
                # What consists of several has none of the variants that its parts have.
                chosen = [o for o in combination if o.startswith("experiment=")]
                try:
                    plain = {"name": "parts", "parts": list(hydra_compose("config", chosen).parts)}
                except (HydraException, OmegaConfBaseException):
                    plain = {"parts": []}
                if not plain["parts"]:
                    raise UserError(_explain(error, combination, loader, files)) from error
            except Exception as error:
                if type(error).__module__.startswith("yaml"):
                    text = " ".join(str(error).split())
                    raise UserError(f"configuration file: {text}") from error
                raise
            assert isinstance(plain, dict)
            for key, value in paths.items():
                _set_path(plain, key, value)
            config = build_dataclass(ExperimentConfig, plain, "")
            given = [_as_given(each, files) for each in combination]
            own = [*given, *(f"{key}={value}" for key, value in paths.items())]
            found.append((own, config, words))
    # Hydra composes one experiment at a time: those of several come after it is let go.
    every: list[tuple[list[str], ExperimentConfig]] = []
    apart: list[str] = []
    for own, config, words in found:
        rest = [o for o in own if o.lstrip("+").partition("=")[0] != "experiment"]
        members = [
            (f"{part} {words}".strip() if named else words, pair)
            for part in config.parts
            for pair in expand([f"experiment={part}", *rest])
        ] or [(words, (own, _checked(config)))]
        apart += [text for text, _ in members]
        every += [pair for _, pair in members]
    return _apart(every, apart)


def _composed(overrides: list[str], groups: Collection[str]) -> Any:
    """What hydra composes, variants that settings enter before all other settings."""
    from hydra import compose as hydra_compose

    if not speaks_of_variants(overrides):
        composed = hydra_compose("config", overrides, return_hydra_config=True)
        if not composed.add:
            return composed
    before = [o for o in overrides if o.lstrip("+").partition("=")[0] in (*groups, "add")]
    known = hydra_compose("config", before)
    overrides = entered_first(overrides, list(known.variants), list(known.add))
    composed = hydra_compose("config", overrides, return_hydra_config=True)
    if composed.only:  # What a setting enters is meant to be there.
        entered = [name for name in composed.variants if name not in known.variants]
        composed.only = list(dict.fromkeys([*composed.only, *entered]))
    return composed


def _as_given(override: str, files: Mapping[str, OwnFile]) -> str:
    """The setting as the user wrote it, who knows a file of one's own by its path."""
    key, _, value = override.partition("=")
    return f"{key}={files[value].path}" if value in files else override


def _schema() -> Any:
    """The experiment's dataclasses as hydra's schema: frozen ones would refuse every override."""
    from omegaconf import OmegaConf

    def thaw(node: Any) -> None:
        OmegaConf.set_readonly(node, None)
        for key in node if OmegaConf.is_dict(node) else ():
            child = node._get_node(key)
            if OmegaConf.is_config(child):
                thaw(child)

    node = OmegaConf.structured(ExperimentConfig)
    thaw(node)
    return node


def _refuse_no_truth(override: Any) -> None:
    """Numbers given to a switch, which hydra would take for true."""
    kind: Any = ExperimentConfig
    for name in override.key_or_group.split("."):
        kind = typing.get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    for value in values if kind is bool else ():
        if not isinstance(value, bool):
            raise UserError(f"{override.key_or_group}={value}: must be bool: true or false")


def _set_path(plain: dict[str, Any], key: str, value: str) -> None:
    """Set a path-valued key, which hydra never saw."""
    place: Any = plain
    *parents, last = key.split(".")
    for parent in parents:
        place = place.get(parent)
    if not isinstance(place, dict) or (last not in place and parents[:1] != ["dataset"]):
        raise UserError(f"{key}=: not a setting of this verb")
    place[last] = several if key == "plugins" and len(several := places(value)) > 1 else value


OPEN = re.compile(
    r"(variants\.[^.=]+\.(settings|sampling|training|budget)|(protocol|dataset)\.settings|"
    r"launcher\.(stages|variants|extra))[.=]"
)
"""Settings that plugins declare: any may be given, whether a file names it or not."""


def _open(override: str) -> str:
    """The override, allowed to add a key where a plugin says which keys there are."""
    return f"++{override}" if OPEN.match(override) else override


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
            if name in taken or not re.fullmatch(NAME, name):
                digest = hashlib.sha256(values.encode()).hexdigest()[:8]
                name = f"{name[:55]}-{digest}"
            experiment.name = name
            settings[:] = [s for s in settings if s.partition("=")[0] != "name"]
            settings.append(f"name={name}")
    return found


def _check_group(key: str, override: Any, options: Sequence[str], files: Collection[str]) -> None:
    value = override.value()
    values = (
        [str(v) for v in override.sweep_iterator()]
        if override.is_sweep_override()
        else [str(value)]
    )
    for name in values:
        if name not in options and name not in files and name != "None":
            raise UserError(f"{key}={name}: no such {key}; {nearest(name, list(options))}")


def _flat_keys(config: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _flat_keys(value, f"{prefix}{name}.")
    return keys


def _explain(
    error: Exception, overrides: Sequence[str], loader: Any, files: Mapping[str, OwnFile]
) -> str:
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
    first, *further = text.splitlines()
    if first.endswith("raised while composing config:") and further:
        first = further[0]
    new = {method[1] for method in map(METHOD.fullmatch, overrides) if method}
    for override in overrides if valid else []:
        key, _, value = override.lstrip("+~").partition("=")
        parts = key.split(".")
        if parts[0] == "variants" and len(parts) > 2 and parts[1] not in {*variants, *new}:
            return (
                f"variants.{parts[1]}: no such variant; a new one needs its method "
                f"(variants.{parts[1]}.method=NAME); {nearest(parts[1], variants)}"
            )
        whole = parts[0] == "variants" and len(parts) == 2
        if key not in valid and not whole and (parts[-1] in text or f"'{key}'" in str(error)):
            return f"{key}: no such setting; {_nearest_key(key, valid)}"
    key_match = re.search(r"full_key: (\S+)", text)
    if key_match and key_match.group(1):
        full = key_match.group(1)
        if first.startswith("Missing mandatory value") and full.endswith(".method"):
            return f"{full}: is needed: the name of a method, see `piflow_bench list methods`"
        if re.match(r"Key '.+' not in 'VariantConfig'", first):
            known = [f.name for f in dataclasses.fields(VariantConfig)]
            return f"{full}: no such setting; {nearest(full.rpartition('.')[2], known)}"
        if "not a subclass of VariantConfig" in first:
            first = "must be settings, such as {method: kd}"
        for override in overrides:
            key, _, value = override.lstrip("+~").partition("=")
            if key == full.partition("[")[0]:
                if "ListConfig" in first:
                    first = f"must be a list, such as {key}=[{value}]"
                return f"{key}={value}: {first}"
        if "ListConfig" in first:
            first = f"must be a list, such as {full}: [1]"
        first = f"{full}: {first}"
    own = next((f"experiment={files[n].path}: " for n in files if n in str(error)), "")
    return f"{own}{first}"


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


def _checked(config: ExperimentConfig) -> ExperimentConfig:
    if len(set(config.nfes)) != len(config.nfes) or not config.nfes:
        raise UserError(f"nfes={config.nfes}: must be distinct and not empty")
    if len(set(config.train_seeds)) != len(config.train_seeds) or not config.train_seeds:
        raise UserError(f"train_seeds={config.train_seeds}: must be distinct and not empty")
    for key in ("questions", "extractors", "metrics", "curve_metrics"):
        names = getattr(config.protocol, key)
        if len(set(names)) != len(names):
            raise UserError(f"protocol.{key}={names}: must be distinct")
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
        if name not in config.variants:
            raise UserError(f"only={name}: no such variant; {nearest(name, list(config.variants))}")
    leader = config.family.leader
    if leader is not None and leader not in config.variants:
        raise UserError(
            f"family.leader={leader}: no such variant; {nearest(leader, list(config.variants))}"
        )
    if config.only == []:
        raise UserError("only=[]: name at least one variant, or leave it out")
    return config


def to_plain(instance: Any) -> Any:
    """A dataclass (or container of them) as plain JSON values."""
    if dataclasses.is_dataclass(instance) and not isinstance(instance, type):
        return {f.name: to_plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}
    if isinstance(instance, Mapping):
        return {str(k): to_plain(v) for k, v in instance.items()}
    if isinstance(instance, list | tuple):
        return [to_plain(v) for v in instance]
    return instance
