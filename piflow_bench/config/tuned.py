"""The file that ``tune`` writes, and how an experiment reads it (``tuned=FILE``).

It says of every variant what its trials chose, and what the variant stated then. What a variant
states itself is never replaced: chosen settings stand where it states none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError
from piflow_bench.files.atomic import write_text
from piflow_bench.settings import build_dataclass, setting

NAME = "tuned.yaml"


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a variant."""

    settings: dict[str, Any] = setting(factory=dict)
    settings_at: dict[str, Any] = setting(factory=dict)  # over them, by NFE
    stated: dict[str, Any] = setting(factory=dict)  # what the variant stated when it was tuned
    tuning: str = setting("")  # how they were chosen, in words


@dataclass(frozen=True)
class TunedFile:
    """What was chosen for all variants of an experiment."""

    command: str = setting("")  # that chose them
    variants: dict[str, Tuned] = field(default_factory=dict)


def write_tuned(path: Path, command: str, variants: Mapping[str, Tuned]) -> None:
    """Write the file, whole or not at all."""
    import dataclasses

    import yaml

    content = {
        "command": command,
        "variants": {
            name: {key: value for key, value in dataclasses.asdict(entry).items() if value}
            for name, entry in variants.items()
        },
    }
    words = "# Settings that trials chose; an experiment reads them by tuned=FILE.\n"
    write_text(path, words + yaml.safe_dump(content, sort_keys=False, width=100))


def read_tuned(source: str) -> TunedFile:
    """What a file says.

    Raises:
        UserError: if there is none, or it is none that ``tune`` wrote.
    """
    import yaml

    from piflow_bench.files.hub import local_path

    where = f"tuned={source}"
    path = local_path(source, "tuned")
    if path.is_dir():
        path = path / NAME
        if not path.is_file():
            raise UserError(f"{where}: has no {NAME}; `tune` writes it into its run's folder")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where}: is no YAML ({reason}); `tune` writes such files") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("variants"), Mapping):
        raise UserError(f"{where}: says nothing of variants; `tune` writes such files")
    whole = build_dataclass(TunedFile, {**content, "variants": {}}, where)
    found = {
        str(name): build_dataclass(Tuned, _mapping(entry, str(name), where), f"{where}: {name}")
        for name, entry in content["variants"].items()
    }
    for name, chosen in found.items():
        for nfe, own in chosen.settings_at.items():
            _mapping(own, f"{name}.settings_at.{nfe}", where)
    return TunedFile(whole.command, found)


def _mapping(entry: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: variants.{name}: must hold settings")
    return entry


def with_tuned(plain: dict[str, Any]) -> None:
    """Give the variants of an experiment what its ``tuned`` file chose for them, in place."""
    if not plain.get("tuned"):
        return
    found = read_tuned(str(plain["tuned"])).variants
    entries = plain.get("variants") or {}
    if entries and not set(found) & set(entries):
        raise UserError(
            f"tuned={plain['tuned']}: is of {', '.join(found) or 'no variant'}, none of which the "
            "experiment has"
        )
    for name, chosen in found.items():
        if name in entries:
            entries[name] = _given(entries[name], chosen)


def _given(entry: Mapping[str, Any], chosen: Tuned) -> dict[str, Any]:
    stated = dict(entry.get("settings") or {})
    words = chosen.tuning
    other = {**stated, **chosen.stated}.keys() - {
        key for key in stated if key in chosen.stated and stated[key] == chosen.stated[key]
    }
    at = {nfe: _without(own, stated) for nfe, own in chosen.settings_at.items()}
    differ = [f"another {key}" for key in sorted(other)]
    for nfe, own in (entry.get("settings_at") or {}).items():
        best = at.get(str(nfe), {})
        if isinstance(own, Mapping):  # Else it is refused with the plan.
            chosen_there = {**chosen.settings, **best}
            differ += [f"another {k} at {nfe} NFE" for k in own if own[k] != chosen_there.get(k)]
            own = {**best, **own}
        at[str(nfe)] = own
    return {
        **entry,
        "settings": {**chosen.settings, **stated},
        "settings_at": at,
        "tuning": entry.get("tuning") or words + f"; there with {', '.join(differ)}" * bool(differ),
    }


def _without(own: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Settings at one NFE that the variant does not state for all."""
    return {key: value for key, value in own.items() if key not in stated}
