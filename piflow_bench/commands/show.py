"""`show`: a composed experiment with what its settings mean, or a method with its own."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from piflow_bench.config.compose import compose
from piflow_bench.config.files import is_path
from piflow_bench.config.paths import split_paths
from piflow_bench.config.schema import ExperimentConfig, to_plain
from piflow_bench.errors import OK, UserError, nearest
from piflow_bench.file_plugins import places
from piflow_bench.meanings import comments
from piflow_bench.settings import bounds_of

BESIDE = 44
"""Column from which comments stand, where a setting is not longer."""


def print_shown(arguments: Sequence[str]) -> None:
    """Print a method's settings and facts, or experiments as they are composed.

    Raises:
        UserError: for a name that is no method's.
    """
    names = [a for a in arguments if "=" not in a]
    if not names:
        for config in compose(arguments):
            print("\n".join(_commented(config)))
        return
    if len(names) > 1:
        raise UserError(f"show {' '.join(names)}: name one method")
    if is_path(names[0]):
        raise UserError(f"show {names[0]}: a file is shown by experiment={names[0]}")
    overrides, paths = split_paths([a for a in arguments if "=" in a])
    if overrides or set(paths) - {"plugins"}:
        raise UserError(f"show {names[0]}: takes plugins=PATH alone beside a method's name")
    folders = places(paths.get("plugins"))
    print("\n".join(_method(names[0], folders)))


def _method(name: str, folders: Sequence[str]) -> Iterator[str]:
    from piflow_bench import registry

    found = registry.find("method", folders)
    if name not in found:
        raise UserError(f"show {name}: no such method; {nearest(name, list(found))}")
    cls = found[name].load()
    yield f"{name}: {found[name].summary()}"
    facts = cls.facts
    yield ""
    yield "facts"
    for field in dataclasses.fields(facts):
        value = getattr(facts, field.name)
        if value not in ("", (), None):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"  {field.name}: {shown}"
    for title, settings in (
        ("settings: variants.NAME.settings.KEY=VALUE", cls.Config),
        ("of sampling alone: variants.NAME.sampling.KEY=VALUE", getattr(cls, "Sampling", None)),
    ):
        if settings is not None and dataclasses.fields(settings):
            yield ""
            yield title
            yield from _fields(settings)


def _fields(settings: type) -> Iterator[str]:
    said = comments(settings)
    hints = typing.get_type_hints(settings)
    rows = []
    for field in dataclasses.fields(settings):
        kind = getattr(hints[field.name], "__name__", str(hints[field.name]))
        if typing.get_origin(hints[field.name]) is not None:
            kind = str(hints[field.name]).replace("typing.", "")
        rows.append((field.name, kind, _default(field), _meaning(field, said.get(field.name, ""))))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for name, kind, default, meaning in rows:
        line = f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {default:<{widths[2]}}  {meaning}"
        yield line.rstrip()


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return "needed"


def _meaning(field: dataclasses.Field[Any], comment: str) -> str:
    """The comment in the source, and what the field may hold."""
    bounds = bounds_of(field)
    if bounds is None:
        return comment
    choices = bounds.choices() if callable(bounds.choices) else bounds.choices
    told = bounds.range() or (" | ".join(choices) if choices else bounds.words)
    return f"{comment} ({told})" if comment and told else comment or told


def _commented(config: ExperimentConfig) -> Iterator[str]:
    """The configuration as YAML, with each setting's comment from its dataclass beside it."""
    import yaml

    said = dict(_comments_by_key(ExperimentConfig))
    parents: list[str] = []
    for line in yaml.safe_dump(to_plain(config), sort_keys=False, width=10**6).splitlines():
        depth, key = (len(line) - len(line.lstrip())) // 2, line.strip().partition(":")[0]
        if line.lstrip().startswith("- "):
            yield line
            continue
        parents[depth:] = [key]
        comment = said.get(".".join(parents), "")
        yield f"{line:<{BESIDE}}  # {comment}" if comment else line


def _comments_by_key(settings: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    hints = typing.get_type_hints(settings)
    for name, text in comments(settings).items():
        yield f"{prefix}{name}", text
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _comments_by_key(kind, f"{prefix}{field.name}.")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("settings", nargs="*", help="METHOD, or experiment=NAME and key=value")


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    print_shown(options.settings)
    return OK
