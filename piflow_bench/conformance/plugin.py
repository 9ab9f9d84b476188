"""What a plugin of any kind must be, and how `check` opens one with what it is checked beside."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any
from unittest.mock import patch

import torch

from piflow_bench import registry
from piflow_bench.config.paths import split_paths
from piflow_bench.conformance.results import CheckResult, Failure, attempt_given, require
from piflow_bench.contracts.plugin import Plugin
from piflow_bench.contracts.requirement import Requirement
from piflow_bench.errors import UserError, nearest
from piflow_bench.file_plugins import BASES, places
from piflow_bench.settings import build_dataclass, nested


@dataclass(frozen=True)
class Asked:
    """A plugin to be checked, and those that are given beside it."""

    kind: str
    name: str
    settings: Mapping[str, Any]
    beside: Mapping[str, Mapping[str, Any]]
    """Settings of other kinds' plugins, with their ``name``."""
    folders: Sequence[str]

    def plugin_beside(self, kind: str) -> Any:
        """A plugin that is given beside it, by its settings.

        Raises:
            UserError: for an unknown name, or settings that it has not.
        """
        settings = dict(self.beside[kind])
        if "name" not in settings:
            raise UserError(f"{kind}: {kind}=NAME is needed beside its settings")
        cls = registry.get(kind, settings.pop("name"), self.folders)
        return cls(build_dataclass(cls.Config, settings, kind))


def asked(kind: str, name: str, arguments: Sequence[str], beside: Sequence[str] = ()) -> Asked:
    """What the arguments of `check` say.

    Args:
        kind: of the plugin that is checked.
        name: its name.
        arguments: ``key=value`` or ``KIND.key=value`` of its own settings, ``plugins=``, and of
            other kinds' plugins ``KIND=NAME`` and ``KIND.key=value``.
        beside: the other kinds that may be given.
    """
    full = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        first = key.partition(".")[0]
        if sign and key in beside:
            argument = f"{key}.name={value}"
        elif sign and key != "plugins" and not ("." in key and first in (kind, *beside)):
            argument = f"{kind}.{argument}"
        full.append(argument)
    overrides, paths = split_paths(full)
    folders = places(paths.pop("plugins", None))
    given = nested(overrides)
    for key, value in paths.items():
        of, _, field = key.partition(".")
        given.setdefault(of, {})[field] = value
    others = {other: given[other] for other in beside if other in given}
    return Asked(kind, name, given.get(kind, {}), others, folders)


@dataclass(frozen=True)
class Opened:
    """A plugin as it is asked for, if it could be made, and the result of making it."""

    result: CheckResult
    plugin: Any = None
    source: str = ""
    """Its file."""


def open_plugin(which: Asked) -> Opened:
    """Import a plugin and make it with its settings.

    Raises:
        UserError: for an unknown name, or settings that it has not.
    """
    found = registry.find(which.kind, which.folders)
    if which.name not in found:
        raise UserError(
            f"no {which.kind} is called '{which.name}'; " + nearest(which.name, [*found])
        )
    entry = found[which.name]
    base_name, module = next((n, m) for n, (k, m) in BASES.items() if k == which.kind)
    base = getattr(importlib.import_module(module), base_name)
    made: list[Any] = []

    def load() -> None:
        cls = entry.load()
        require(
            inspect.isclass(cls) and issubclass(cls, base),
            f"{entry.source}: '{which.name}' is not a subclass of {base_name}",
        )
        require(
            bool(entry.summary()), "neither its class nor its file has a docstring: `list` shows"
        )
        config = check_settings(cls)
        require(
            config.__dataclass_params__.frozen, "Config must be frozen: @dataclass(frozen=True)"
        )
        try:
            made.append(cls(build_dataclass(config, which.settings, which.kind)))
        except UserError as error:
            if which.settings:
                raise  # The settings are the user's, not the plugin's.
            raise Failure(f"Config's defaults: {error}") from error

    result = attempt_given("loads", load)
    if not made:
        return Opened(result)
    return Opened(result, made[0], inspect.getsourcefile(type(made[0])) or "")


def check_settings(cls: Any) -> Any:
    """A plugin's Config, which is a dataclass with defaults."""
    config = getattr(cls, "Config", None)
    require(
        isinstance(config, type) and is_dataclass(config), "Config must be a dataclass of settings"
    )
    for field in fields(config):  # type: ignore[arg-type]
        require(
            field.default is not MISSING or field.default_factory is not MISSING,
            f"Config.{field.name} has no default",
        )
    return config


def check_requirements(plugin: Plugin) -> str:
    """Its requirements are such, and none is missing.

    Raises:
        UserError: naming the setting that brings a file which was not given.
    """
    needed = list(plugin.requirements())
    for each in needed:
        require(
            isinstance(each, Requirement),
            f"requirements() gives {type(each).__name__}, not Requirement",
        )
        if each.source is None:
            raise UserError(f"{each.name}: not given; {each.mend}")
    return ", ".join(each.name for each in needed)


def check_identity(plugin: Plugin) -> str:
    """What decides the results: plain, the same whenever it is asked for, without weights."""
    with _watched_readers() as read:
        identity = plugin.identity()
    require(
        not read,
        f"identity() reads weights ({', '.join(dict.fromkeys(read))}): files are told by their "
        "digest, and it is asked for before anything is loaded",
    )
    require(isinstance(identity, Mapping), f"identity() gives {type(identity).__name__}")
    for key, value in identity.items():
        try:
            json.dumps({key: value}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Failure(f"identity()['{key}'] is not plain JSON: {error}") from error
    for other in (plugin, type(plugin)(plugin.config)):
        again = other.identity()
        differ = [k for k in {**identity, **again} if identity.get(k) != again.get(k)]
        require(not differ, f"identity() differs when asked again: {', '.join(differ)}")
    return ", ".join(identity)


@contextmanager
def _watched_readers() -> Iterator[list[str]]:
    """Names of the readers of weights that are called meanwhile; shapes alone may be read."""
    import safetensors.torch

    read: list[str] = []
    load, safe_open = torch.load, safetensors.torch.safe_open

    def watched_load(*given: Any, **settings: Any) -> Any:
        if str(settings.get("map_location")) != "meta":
            read.append("torch.load")
        return load(*given, **settings)

    def watched_open(*given: Any, **settings: Any) -> Any:
        # The one that load_file calls, whatever name a plugin has imported that by.
        read.append("safetensors.torch.load_file")
        return safe_open(*given, **settings)

    with (
        patch.object(torch, "load", watched_load),
        patch.object(safetensors.torch, "safe_open", watched_open),
    ):
        yield read
