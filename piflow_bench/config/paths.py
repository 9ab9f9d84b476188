"""Settings whose values are places: taken literally, before hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from piflow_bench.config.files import ENDINGS
from piflow_bench.errors import UserError
from piflow_bench.file_plugins import places
from piflow_bench.files.hub import is_address

PATH_KEYS = (
    "store",
    "runs",
    "plugins",
    "samples",
    "reference",
    "out",
    "extractor.weights",
    "student.checkpoint",
    "lpips.weights",
)
"""Keys whose values are taken literally, before hydra's grammar: any character may occur."""
OF_PLUGINS = re.compile(
    r"tuned|(dataset|teacher|space|(?:extractors|rewards|scorers)\.[^.=]+)\.[A-Za-z_]\w*"
)
"""Settings, most of them of plugins, that may be places."""


NO_PLACE = re.compile(r"(?i)null|none|true|false|[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?")
"""What is a number or a word of the settings, whether or not a file is called so."""


def split_paths(
    arguments: Sequence[str], keys: Sequence[str] = PATH_KEYS
) -> tuple[list[str], dict[str, str]]:
    """Separate path-valued ``key=value`` arguments, whose values are literal, from overrides.

    Of the settings of plugins those are paths whose values look like one.
    """
    overrides: list[str] = []
    paths: dict[str, str] = {}
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"unknown flag {argument}; settings are given as key=value, see --help")
        key, sign, value = argument.partition("=")
        if not sign:
            hint = f"; did you mean experiment={argument}?" if argument.endswith(ENDINGS) else ""
            raise UserError(f"'{argument}': settings are given as key=value{hint}")
        if key in keys or (keys is PATH_KEYS and OF_PLUGINS.fullmatch(key) and _is_place(value)):
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


def _is_place(value: str) -> bool:
    """Whether a text is a file, a folder or an address, there or not; never a list or a sweep."""
    if not value or value[0] in "[{'\"" or NO_PLACE.fullmatch(value):
        return False
    several = [part for part in value.split(",") if part]
    if len(several) > 1 and not Path(value).exists() and all(map(_is_place, several)):
        return False
    return is_address(value) or "/" in value or "\\" in value or Path(value).exists()


def set_path(plain: dict[str, Any], key: str, value: str) -> None:
    """Set a path-valued key, which hydra never saw."""
    place: Any = plain
    *parents, last = key.split(".")
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict) or (last not in place and not OF_PLUGINS.fullmatch(key)):
        raise UserError(f"{key}=: not a setting of this verb")
    place[last] = several if key == "plugins" and len(several := places(value)) > 1 else value
