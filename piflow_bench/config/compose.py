"""From settings to experiments, through hydra."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from piflow_bench.config.files import PREFIX, OwnFile, read_given
from piflow_bench.config.overrides import entered_first, speaks_of_variants
from piflow_bench.config.paths import set_path, split_paths
from piflow_bench.config.refusals import check_group, explain, refuse_no_truth, refuse_renamed
from piflow_bench.config.schema import (
    NAME,
    ExperimentConfig,
    checked,
)
from piflow_bench.config.tuned import with_tuned
from piflow_bench.errors import UserError
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.file_plugins import places
from piflow_bench.settings import build_dataclass


@functools.cache  # Hydra keeps every class that it is given and asks each at every composition.
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


def options(loader: Any, group: str) -> list[str]:
    """Names of a group's configurations; hydra's own listing copies a whole composition."""
    found: list[str] = loader.repository.get_group_options(group)
    return found


def _register_plugins(loader: Any, folders: Sequence[str]) -> None:
    """Let ``dataset=``, ``teacher=`` and ``space=`` name plugins that no file of settings does."""
    from hydra.core.config_store import ConfigStore

    from piflow_bench.registry import find

    for kind in ("dataset", "teacher", "space"):
        known = options(loader, kind)
        for name in find(kind, folders):
            if name not in known:
                ConfigStore.instance().store(name, {"name": name}, kind, kind, provider="plugins")
    if OWN not in options(loader, "space"):
        ConfigStore.instance().store(OWN, {}, "space", "space", provider="plugins")


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
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    refuse_renamed(arguments)
    overrides, paths = split_paths(arguments)
    _register_schema()
    _register_third_party_configs()
    GlobalHydra.instance().clear()
    with initialize_config_module("piflow_experiments", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        _register_plugins(loader, places(paths.get("plugins")))
        groups = {
            g: [name for name in options(loader, g) if not name.startswith(PREFIX)]
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
                check_group(key, override, groups[key], files)
            refuse_no_truth(override)
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
        for combination, of_sweeps in zip(
            itertools.product(*choices), itertools.product(*swept), strict=True
        ):
            words = " ".join(v for v in of_sweeps if v)
            try:
                composed = _composed([_at_nfe(given) for given in combination], groups)
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
                    set_keys = {o.partition("=")[0].lstrip("+") for o in combination} | set(paths)
                    for key, value in composed.smoke.items():
                        # Of a plugin that the user chose, they would be another's settings.
                        if not {key, key.partition(".")[0]} & set_keys:
                            OmegaConf.update(
                                composed, key, value, force_add=bool(OPEN.match(f"{key}="))
                            )
                plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
            except (HydraException, OmegaConfBaseException) as error:
                # What consists of several has none of the variants that its parts have.
                alone = [o for o in combination if o.startswith("experiment=")]
                try:
                    plain = {"name": "parts", "parts": list(hydra_compose("config", alone).parts)}
                except (HydraException, OmegaConfBaseException):
                    plain = {"parts": []}
                if not plain["parts"]:
                    raise UserError(explain(error, combination, loader, files)) from error
            except Exception as error:
                if type(error).__module__.startswith("yaml"):
                    text = " ".join(str(error).split())
                    raise UserError(f"configuration file: {text}") from error
                raise
            assert isinstance(plain, dict)
            for key, value in paths.items():
                set_path(plain, key, value)
            use_plugins(places(plain.get("plugins")))
            with_tuned(plain)
            config = build_dataclass(ExperimentConfig, plain, "")
            own = [_as_given(each, files) for each in combination]
            own += [f"{key}={value}" for key, value in paths.items()]
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
        ] or [(words, (own, checked(config)))]
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


@functools.cache  # It is the same at every composition, and a tenth of the time of one.
def _register_schema() -> None:
    """The experiment's dataclasses as hydra's schema: frozen ones would refuse every override."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    def thaw(node: Any) -> None:
        OmegaConf.set_readonly(node, None)
        for key in node if OmegaConf.is_dict(node) else ():
            child = node._get_node(key)
            if OmegaConf.is_config(child):
                thaw(child)

    node = OmegaConf.structured(ExperimentConfig)
    thaw(node)
    ConfigStore.instance().store(name="schema", node=node)


OWN = "own"
"""The option of ``space=`` that is the dataset's own space."""
OPEN = re.compile(
    r"(variants\.[^.=]+\.(settings|settings_at|sampling|training|budget)|protocol\.settings|"
    r"dataset|teacher|space|extractors|rewards|scorers|search|family\.entries|"
    r"launcher\.(stages|variants|extra))\."
    r"|(variants\.[^.=]+\.(settings|settings_at|sampling|training|budget)|protocol\.settings|search|"
    r"launcher\.(stages|variants|extra))="
)
"""Settings that plugins declare: any may be given, whether a file names it or not."""


def _open(override: str) -> str:
    """The override, allowed to add a key where a plugin says which keys there are."""
    return f"++{override}" if OPEN.match(override) else override


AT_NFE = re.compile(r"([^=]*\.settings_at)\.(\d+)(?:\.([^.=]+))?=(.*)", re.DOTALL)


def _at_nfe(override: str) -> str:
    """The override of a setting at one NFE as a mapping, whose key can be a number."""
    found = AT_NFE.fullmatch(override)
    if not found:
        return override
    where, nfe, key, value = found.groups()
    return f"{where}={{{nfe}: {f'{{{key}: {value}}}' if key else value}}}"


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
