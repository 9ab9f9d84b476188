"""The space that a run's samples lie in: the plugin that their record names, as it was there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench import registry
from piflow_bench.contracts.plugin import Place
from piflow_bench.errors import UserError
from piflow_bench.files.hub import in_cache
from piflow_bench.settings import build_dataclass, is_location

if TYPE_CHECKING:
    from piflow_bench.contracts.space import Space, SpacePlugin

DIGITS = 12
"""Digits of a digest that are shown."""


@dataclass(frozen=True)
class Look:
    """What it takes to look at samples of a run beside them: matters of the call."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Files of spaces, by setting: ``{"autoencoder": PATH}``."""
    plugins: tuple[str, ...] = ()
    """Files and folders of plugins."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    cache: Path | None = None
    """Folder of pictures that were decoded; None to keep none."""


def open_space(
    recorded: Mapping[str, Any], shape: tuple[int, ...], look: Look, where: str
) -> tuple[Space, tuple[int, int, int]]:
    """The space of samples of a shape, and the size (h, w, c) of their pictures.

    Args:
        recorded: its ``name`` and ``settings`` in the samples' record, files by their digests; the
            ``source`` of another project's plugin.
        shape: (C, *spatial) of a sample.
        look: where its files are; one that is not given may lie in the hub's cache.
        where: the setting and path of the samples, for messages.

    Raises:
        UserError: where something that it needs is not given, or is not what the samples are of.
    """
    name, stated = recorded["name"], recorded["settings"]
    plugin = _plugin(name, stated, look, where)
    found = json.loads(json.dumps(dict(plugin.identity())))  # As a record has it.
    for key, value in stated.items():
        if found.get(key) != value:
            raise UserError(_another(key, found.get(key), value, look, where))
    source = registry.find("space", look.plugins)[name].foreign_source()
    if source != recorded.get("source", ""):
        theirs = recorded.get("source", "")
        raise UserError(
            f"{where}: made with another source of space '{name}', {theirs[:DIGITS] or 'ours'} and "
            f"not {source[:DIGITS] or 'ours'}; give the run's own by plugins=FILE"
        )
    size = plugin.pictures_of(shape)
    space = plugin.load(size, Place(look.device))
    if space.pictures is None:
        raise UserError(f"{where}: points of the space '{name}', which have no pictures")
    if space.shape != shape:
        raise UserError(
            f"{where}: samples of {_by(shape)}, but pictures of {_by(size)}, which space '{name}' "
            f"says that they are of (pictures_of), have samples of {_by(space.shape)}"
        )
    return space, size


def _plugin(name: str, stated: Mapping[str, Any], look: Look, where: str) -> SpacePlugin:
    """The plugin with the settings of a record; its files as they are given now."""
    cls = registry.get("space", name, look.plugins)
    values: dict[str, Any] = {}
    for each in fields(cls.Config):
        key, default = each.name, each.default
        if not is_location(cls.Config, key):
            if key in look.files:
                raise UserError(
                    f"space.{key}={look.files[key]}: is what the record of {where} says, "
                    f"{stated.get(key)}; only files are given"
                )
            values |= {key: stated[key]} if key in stated else {}
        elif key in stated and stated[key] is None:
            values[key] = None
        elif key in look.files:
            values[key] = look.files[key]
        elif isinstance(default, str) and (cached := in_cache(default)) is not None:
            values[key] = str(cached)
        else:
            raise UserError(
                f"{where}: samples of the space '{name}'; give what it had in their run by "
                f"space.{key}=PATH (of digest {str(stated.get(key))[:DIGITS]})"
            )
    found: SpacePlugin = cls(build_dataclass(cls.Config, values, "space"))
    return found


def _another(key: str, found: Any, recorded: Any, look: Look, where: str) -> str:
    """Words for a part of a space that is not that of the samples."""
    given = f"={look.files[key]}" if key in look.files else ""
    ours, theirs = (str(value)[:DIGITS] for value in (found, recorded))
    return (
        f"space.{key}{given}: of digest {ours}, but {where} was made with {theirs}; give that one "
        f"by space.{key}=PATH"
    )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
