"""`list`: plugins and experiments, from metadata and file names alone."""

from __future__ import annotations

import sys
from importlib.resources import files

from piflow_bench.config import split_paths
from piflow_bench.errors import UserError, nearest
from piflow_bench.registry import PluginError, find

KINDS = ("methods", "datasets", "experiments", "extractors", "protocols")
ASKED_FOR = "metrics"
"""Metrics are listed by name alone, since their module must be imported for it."""


def experiments() -> dict[str, str]:
    """Names of experiments and the distribution that brings them."""
    found = {}
    for plugin in find("config").values():
        try:
            folder = files(plugin.load()).joinpath("experiment")
        except PluginError as error:  # It must not hide the others.
            print(f"warning: {error}", file=sys.stderr)
            continue
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.name.endswith(".yaml"):
                found[file.name.removesuffix(".yaml")] = plugin.source
    return dict(sorted(found.items()))


def protocols() -> dict[str, str]:
    """Protocols of `evaluate`, and what they are."""
    from piflow_bench.evaluation.protocols import load_protocol, names

    return {name: load_protocol(name).title for name in names()}


def metrics() -> dict[str, str]:
    """Every metric, what it is called, and what it is computed from."""
    from piflow_bench.evaluation.metrics import all_metrics

    return {m.name: f"{m.label} ({', '.join(m.needs)})" for m in all_metrics().values()}


def print_list(arguments: list[str], verbose: bool) -> int:
    """Print the kinds asked for; with ``verbose`` also methods' facts and load errors."""
    kinds = [a for a in arguments if "=" not in a]
    _, paths = split_paths([a for a in arguments if "=" in a])
    folders = [paths["plugins"]] if "plugins" in paths else []
    for kind in kinds:
        if kind not in (*KINDS, ASKED_FOR):
            raise UserError(f"list {kind}: {nearest(kind, [*KINDS, ASKED_FOR])}")
    for kind in kinds or KINDS:
        print(f"{kind}:")
        if kind == "experiments":
            for name, source in experiments().items():
                print(f"  {name:<22} {source}")
            continue
        if kind in ("protocols", ASKED_FOR):
            for name, text in (protocols() if kind == "protocols" else metrics()).items():
                print(f"  {name:<22} {text}")
            continue
        for plugin in find(kind.removesuffix("s"), folders).values():
            line = f"  {plugin.name:<22} {plugin.source}"
            if verbose:
                try:
                    loaded = plugin.load()
                    facts = getattr(loaded, "facts", None)
                    if facts is not None:
                        line += f"  {facts.family}; track {facts.track}; {facts.paper}"
                except PluginError as error:
                    line += f"  BROKEN: {error}"
            print(line.rstrip())
    return 0
