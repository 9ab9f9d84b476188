"""`show`: a composed experiment or a protocol with what settings mean, or a plugin with its own."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from piflow_bench.commands.arguments import kind_and_name
from piflow_bench.config.compose import compose
from piflow_bench.config.files import is_path
from piflow_bench.config.paths import split_paths
from piflow_bench.config.schema import ExperimentConfig, to_plain
from piflow_bench.errors import OK, UserError, nearest
from piflow_bench.evaluation.metrics.metric import all_metrics, use_plugins
from piflow_bench.evaluation.protocols import Protocol
from piflow_bench.file_plugins import places
from piflow_bench.meanings import comments
from piflow_bench.settings import bounds_of

BESIDE = 44
"""Column from which comments stand, where a setting is not longer."""


SETTINGS = {
    "method": {
        "Config": "settings: variants.NAME.settings.KEY=VALUE",
        "Sampling": "of sampling alone: variants.NAME.sampling.KEY=VALUE",
    },
    "dataset": {"Config": "settings: dataset.KEY=VALUE"},
    "space": {"Config": "settings: space.KEY=VALUE"},
    "teacher": {"Config": "settings: teacher.KEY=VALUE"},
    "extractor": {"Config": "settings: extractors.NAME.KEY=VALUE"},
    "reward": {"Config": "settings: rewards.NAME.KEY=VALUE"},
}
"""Kinds of plugins that are shown, the dataclasses of their settings, and how those are given."""


def print_shown(arguments: Sequence[str]) -> None:
    """Print a plugin's settings and facts, or experiments as they are composed.

    Raises:
        UserError: for a name that is no plugin's.
    """
    names = [a for a in arguments if "=" not in a]
    if not names:
        for config in compose(arguments):
            print("\n".join(_commented(config)))
        return
    if len(names) == 1 and is_path(names[0]):
        raise UserError(
            f"show {names[0]}: an experiment's file is shown by experiment={names[0]}, a "
            f"protocol's by show protocol {names[0]}"
        )
    words = " ".join(names)
    overrides, paths = split_paths([a for a in arguments if "=" in a])
    if overrides or set(paths) - {"plugins"}:
        raise UserError(f"show {words}: takes plugins=PATH alone beside a plugin's name")
    folders = places(paths.get("plugins"))
    use_plugins(folders)
    if names[0] == "metric" and len(names) == 2:
        print("\n".join(_metric(names[1])))
        return
    if names[0] == "protocol" and len(names) == 2:
        print("\n".join(_protocol(names[1])))
        return
    kind, name, _ = kind_and_name("show", arguments, list(SETTINGS))
    print("\n".join(_plugin(kind, name, folders)))


def _plugin(kind: str, name: str, folders: Sequence[str]) -> Iterator[str]:
    from piflow_bench import registry

    found = registry.find(kind, folders)
    if name not in found:
        raise UserError(f"show {kind} {name}: no such {kind}; {nearest(name, list(found))}")
    cls = found[name].load()
    yield f"{name}: {found[name].summary()}"
    if kind == "method":
        yield from _facts(cls.facts)
    if kind == "extractor":
        yield ""
        yield f"  describes: {'points' if cls.of_points else 'pictures'}"
        yield f"  outputs: {', '.join(cls.outputs)}"
        yield f"  rule: {cls.rule}"
    if kind == "reward":
        yield ""
        yield f"  rule: {cls.rule}"
    for attribute, title in SETTINGS[kind].items():
        settings = getattr(cls, attribute, None)
        if settings is not None and dataclasses.fields(settings):
            yield ""
            yield title.replace("NAME", name) if kind in ("extractor", "reward") else title
            yield from _fields(settings)


def _facts(facts: Any) -> Iterator[str]:
    yield ""
    yield "facts"
    for field in dataclasses.fields(facts):
        value = getattr(facts, field.name)
        if value not in ("", (), None):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
            yield f"  {field.name}: {shown}"


def _metric(name: str) -> Iterator[str]:
    known = all_metrics()
    if name not in known:
        raise UserError(f"show metric {name}: no such metric; {nearest(name, list(known))}")
    metric = known[name]
    better = {True: "higher", False: "lower", None: "neither in itself"}
    yield f"{name}: {metric.label}"
    yield ""
    yield f"  meaning: {metric.summary}"
    yield f"  better: {better[metric.higher_is_better]}"
    yield f"  range: {metric.least:g} to {metric.most:g}"
    for field in ("role", "needs", "estimator", "extractor", "spread", "version"):
        value = getattr(metric, field)
        if value is not None:
            yield f"  {field}: {', '.join(value) if isinstance(value, tuple) else value}"
    if metric.Config is not None:
        yield ""
        yield f"settings: protocol.settings.{name}.KEY=VALUE, of evaluate {name}.KEY=VALUE"
        yield from _fields(metric.Config)


def _protocol(name: str) -> Iterator[str]:
    from piflow_bench.evaluation.protocols import load_protocol

    protocol = load_protocol(name)
    yield f"{protocol.name}: {protocol.title}"
    yield ""
    yield f"settings: protocol={name}, and in runs protocol.KEY=VALUE"
    yield from (f"  {line}" for line in _commented(protocol))


def _fields(settings: type) -> Iterator[str]:
    said = comments(settings)
    hints = typing.get_type_hints(settings)
    rows = []
    for field in dataclasses.fields(settings):
        meaning = _meaning(field, said.get(field.name, ""))
        rows.append((field.name, _type_name(hints[field.name]), _default(field), meaning))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for name, kind, default, meaning in rows:
        line = f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {default:<{widths[2]}}  {meaning}"
        yield line.rstrip()


def _type_name(kind: Any) -> str:
    """A type as its annotation says it: ``Location | None``."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, typing.get_args(kind)))
    if typing.get_origin(kind) is not None:
        return str(kind).replace("typing.", "")
    return "None" if kind is type(None) else str(getattr(kind, "__name__", kind))


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


def _commented(config: ExperimentConfig | Protocol) -> Iterator[str]:
    """Settings as YAML, with each one's comment from its dataclass beside it."""
    import yaml

    said = dict(_comments_by_key(type(config)))
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
    parser.add_argument(
        "settings",
        nargs="*",
        help="[KIND] NAME of a plugin, protocol NAME, or experiment=NAME and key=value",
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    print_shown(options.settings)
    return OK
