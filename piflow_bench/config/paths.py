"""Settings whose values are places: taken literally, before hydra's grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from piflow_bench.config.files import ENDINGS
from piflow_bench.errors import UserError
from piflow_bench.file_plugins import places

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


def set_path(plain: dict[str, Any], key: str, value: str) -> None:
    """Set a path-valued key, which hydra never saw."""
    place: Any = plain
    *parents, last = key.split(".")
    for parent in parents:
        place = place.get(parent)
    if not isinstance(place, dict) or (last not in place and parents[:1] != ["dataset"]):
        raise UserError(f"{key}=: not a setting of this verb")
    place[last] = several if key == "plugins" and len(several := places(value)) > 1 else value
