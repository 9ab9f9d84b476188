"""Settings of plugins as they are given, files that nobody gives replaced by generated ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

STAND_IN = "stand-in://"
"""Beginning of a setting that names a generated file: see ``stand_ins.generate``."""


def is_stand_in(value: Any) -> bool:
    """Whether a setting names a generated file."""
    return isinstance(value, str) and value.startswith(STAND_IN)


def path_of(source: str, inputs: str) -> str:
    """A path or address; of a stand-in the file, which is made in ``inputs``."""
    if not is_stand_in(source):
        return source
    from piflow_bench.preparation.stand_ins import generate

    name = source.removeprefix(STAND_IN)
    return generate(Path(inputs), [name])[name]


def resolved(kind: str, given: Mapping[str, Any], inputs: str) -> dict[str, Any]:
    """The settings of a plugin without its name; stand-ins are made in ``inputs``, if it is any."""
    settings = {key: value for key, value in given.items() if key != "name"}
    named = {k: v for k, v in settings.items() if is_stand_in(v)}
    if not named or not inputs:
        return settings
    from piflow_bench.preparation.stand_ins import HEADS, generate

    names = {key: value.removeprefix(STAND_IN) for key, value in named.items()}
    made = generate(Path(inputs), names.values())
    for key, name in names.items():
        settings[key] = made[name]
    if kind == "teacher" and "checkpoint" in named:  # Its file does not say.
        settings.setdefault("heads", HEADS)
    return settings
