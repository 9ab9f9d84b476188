"""Experiments and protocols that are files of one's own: ``experiment=./my.yaml``.

Hydra finds experiments by name in packages. A file is read here and given to hydra under a name
that no package has, and so are the files that it names in turn; ``defaults`` work as in the
shipped ones. Its name is the file's, where it does not say another. A protocol's file is read as
``evaluate`` reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.protocols import Protocol, is_own, settings_of

KEY, PROTOCOL = "experiment", "protocol"
ENDINGS = (".yaml", ".yml")
PREFIX = "own-file-"
"""Beginning of the names by which hydra knows them."""
SETTINGS = "must hold settings, a line each, such as 'nfes: [1]'"


@dataclass(frozen=True)
class OwnFile:
    """A file that is an experiment, or a protocol."""

    key: str
    """The setting that names it."""
    path: Path
    """As it was given."""
    name: str
    """What it says its name is, else the file's own."""


def is_path(value: str) -> bool:
    """Whether a value of ``experiment=`` is a file, and not a name."""
    return value.endswith(ENDINGS) or "/" in value or os.sep in value


def read_given(
    overrides: Sequence[str], schema: type, groups: Mapping[str, list[str]]
) -> tuple[list[str], dict[str, OwnFile]]:
    """Settings that name files of one's own by hydra's names alone, and the files behind those.

    Args:
        overrides: ``key=value`` settings.
        schema: the dataclass whose fields a file may set.
        groups: what hydra finds in its packages, by group.

    Raises:
        UserError: naming what is wrong in a file, in one line.
    """
    found: dict[str, OwnFile] = {}
    written = []
    for override in overrides:
        key, _, value = override.partition("=")
        names = _split(value) if key in (KEY, PROTOCOL) else []
        is_ours = is_path if key == KEY else is_own
        if any(map(is_ours, names)):
            values = []
            for name in names:
                if is_ours(name):
                    if key == KEY:
                        own, called = _Files(schema, groups).give(Path(name), f"{KEY}={name}")
                    else:
                        own, called = _give_protocol(name, f"{key}={name}")
                    found[own] = OwnFile(key, Path(name), called)
                    values.append(own)
                else:
                    values.append(name)
            override = f"{key}={','.join(values)}"
        written.append(override)
    return written, found


def _give_protocol(path: str, what: str) -> tuple[str, str]:
    """Give a protocol's file to hydra; the name by which it knows it, and the protocol's own."""
    from hydra.core.config_store import ConfigStore

    node = settings_of(path)
    for key, value in node.items():
        _check_key(str(key), value, Protocol, what)
    name = _hydras(Path(path).resolve())
    ConfigStore.instance().store(name, node, PROTOCOL, provider=path)
    return name, str(node["name"])


def _hydras(where: Path) -> str:
    return PREFIX + hashlib.sha256(str(where).encode()).hexdigest()[:12]


def _split(value: str) -> list[str]:
    """The experiments or protocols that a value names; a file's name may hold a comma."""
    value = value.strip("'\"")
    return [value] if Path(value).is_file() else [v.strip().strip("'\"") for v in value.split(",")]


class _Files:
    """Reads one file, and those it names."""

    def __init__(self, schema: type, groups: Mapping[str, list[str]]) -> None:
        self.schema, self.groups = schema, groups
        self.begun: list[Path] = []

    def give(self, path: Path, what: str) -> tuple[str, str]:
        """Give a file to hydra; the name by which it knows it, and the experiment's own."""
        from hydra.core.config_store import ConfigStore

        path = path.expanduser()
        where = path.resolve()
        if where in self.begun:
            raise UserError(f"{what}: names itself in its defaults")
        self.begun.append(where)
        node = _read(path, what)
        entries = node.get("defaults", [])
        if not isinstance(entries, list):
            raise UserError(f"{what}: defaults: must be a list, such as [digits]")
        for key, value in node.items():
            if key != "defaults":
                _check_key(str(key), value, self.schema, what)
        if "parts" in node and isinstance(node["parts"], list):
            node["parts"] = [_beside(path, p) if is_path(str(p)) else p for p in node["parts"]]
        found = [self._entry(entry, path, what) for entry in entries]
        # Hydra takes what overrides its own defaults at the end of a list alone.
        node["defaults"] = sorted(found, key=lambda entry: isinstance(entry, dict))
        name = _hydras(where)
        ConfigStore.instance().store(name, node, KEY, package="_global_", provider=str(path))
        self.begun.pop()
        stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", path.stem).lstrip("._+-")[:64]
        return name, str(node.get("name", stem or KEY))

    def _entry(self, entry: Any, path: Path, what: str) -> Any:
        """An entry of a file's defaults, by a name that hydra knows."""
        said = f"{what}: defaults"
        if isinstance(entry, str):
            if entry.endswith(ENDINGS):
                return self.give(_beside(path, entry), f"{said}: {entry}")[0]
            if entry == "_self_" or entry.startswith("/"):
                return entry
            if entry not in self.groups[KEY]:
                own = next((e for e in ENDINGS if path.with_name(entry + e).is_file()), None)
                hint = f"of a file beside it: ./{entry}{own}" if own else ""
                known = nearest(entry, self.groups[KEY])
                raise UserError(f"{said}: {entry}: no such experiment; {hint or known}")
            return entry
        if isinstance(entry, dict) and len(entry) == 1:
            ((key, value),) = entry.items()
            group = str(key).removeprefix("override ").strip("/ ")
            if group != KEY and group in self.groups and isinstance(value, str):
                if group == PROTOCOL and is_own(value):
                    value, _ = _give_protocol(str(_beside(path, value)), f"{said}: {value}")
                elif value not in self.groups[group]:
                    known = nearest(value, self.groups[group])
                    raise UserError(f"{said}: {group}: {value}: no such {group}; {known}")
                return {f"override /{group}": value}
        return entry


def _beside(path: Path, name: str) -> Path:
    """A file that another names: paths in a file begin where it lies."""
    return path.parent / Path(name).expanduser()


def _read(path: Path, what: str) -> dict[Any, Any]:
    """A file's settings."""
    import yaml
    from omegaconf import OmegaConf

    if not path.is_file():
        near = [e for e in ENDINGS if path.with_name(path.name + e).is_file()]
        if path.is_dir():
            raise UserError(f"{what}: is a folder; name a file in it")
        hint = f"did you mean {path}{near[0]}?" if near else "`list experiments` names the shipped"
        raise UserError(f"{what}: no such file; {hint}")
    try:
        node = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        if error.errno is None:  # Its own word for what is no mapping.
            raise UserError(f"{what}: {SETTINGS}") from error
        raise UserError(f"{what}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: is no text in UTF-8; an experiment is a YAML file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{what}: is no YAML{place}: {error.problem}") from error
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise UserError(f"{what}: is no YAML: {words}") from error
    text = isinstance(node, dict) and list(node.values()) == [None]  # Text, to YAML.
    if not isinstance(node, dict) or (text and " " in str(next(iter(node)))):
        raise UserError(f"{what}: {SETTINGS}")
    return node


def _check_key(key: str, value: Any, kind: Any, what: str, prefix: str = "") -> None:
    """Refuse a key that no field has, with the nearest; those that plugins declare pass."""
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise UserError(f"{what}: {prefix}{key}: no such setting; {nearest(key, list(hints))}")
    if not isinstance(value, dict):
        return
    inside, of = hints[key], typing.get_args(hints[key])
    if dataclasses.is_dataclass(inside):
        for name, each in value.items():
            _check_key(str(name), each, inside, what, f"{prefix}{key}.")
    elif len(of) == 2 and dataclasses.is_dataclass(of[1]):  # dict[str, ...]
        for name, entry in value.items():
            for each, content in entry.items() if isinstance(entry, dict) else ():
                _check_key(str(each), content, of[1], what, f"{prefix}{key}.{name}.")
