"""`list`: what there is, a line each, from metadata and sources alone."""

from __future__ import annotations

import argparse
import re
import sys
from importlib.resources import files

from piflow_bench.config.paths import split_paths
from piflow_bench.errors import UserError, nearest
from piflow_bench.evaluation.metrics.metric import use_plugins
from piflow_bench.file_plugins import places
from piflow_bench.registry import Plugin, PluginError, find

KINDS = (
    "methods", "datasets", "teachers", "spaces", "experiments", "extractors", "rewards", "protocols"
)  # fmt: skip
ASKED_FOR = "metrics"
"""Metrics are listed by name alone, since their module must be imported for it."""
OURS = "piflow-bench"
"""The distribution whose name is not said beside each of its plugins."""
TITLE = re.compile(r"^title:\s*(.+?)\s*$", re.MULTILINE)


def experiments() -> dict[str, str]:
    """Every experiment with its title, as its file has it."""
    found = {}
    for plugin in find("config").values():
        try:
            folder = files(plugin.load()).joinpath("experiment")
        except PluginError as error:  # It must not hide the others.
            print(f"warning: {error}", file=sys.stderr)
            continue
        for file in folder.iterdir() if folder.is_dir() else ():
            if file.name.endswith(".yaml"):
                title = TITLE.search(file.read_text("utf-8"))
                text = title.group(1).strip("\"'") if title else ""
                found[file.name.removesuffix(".yaml")] = _from(text, plugin)
    return dict(sorted(found.items()))


def protocols() -> dict[str, str]:
    """Protocols of runs and of `evaluate`, and what they are."""
    from piflow_bench.evaluation.protocols import titles

    return titles()


def metrics() -> dict[str, str]:
    """Every metric, what it is called, and what it is computed from."""
    from piflow_bench.evaluation.metrics.metric import all_metrics

    return {m.name: f"{m.label} ({', '.join(m.needs)})" for m in all_metrics().values()}


def plugins(kind: str, folders: list[str], verbose: bool) -> dict[str, str]:
    """Plugins of a kind, with what they are; ``verbose``: with facts, or why they do not load."""
    found = {}
    for plugin in find(kind, folders).values():
        text = _from(plugin.summary(), plugin)
        if verbose:
            try:
                facts = getattr(plugin.load(), "facts", None)
                if facts is not None:
                    text += f"  {facts.family}; track {facts.track}; {facts.paper}"
            except PluginError as error:
                text += f"  BROKEN: {error}"
        found[plugin.name] = text
    return found


def _from(text: str, plugin: Plugin) -> str:
    """What something is, and who brings it where that is another package or a file."""
    return text if plugin.source == OURS else f"{text} ({plugin.source})".strip()


def print_list(arguments: list[str], verbose: bool) -> int:
    """Print the kinds asked for; with ``verbose`` also methods' facts and load errors."""
    kinds = [a for a in arguments if "=" not in a]
    _, paths = split_paths([a for a in arguments if "=" in a])
    folders = places(paths.get("plugins"))
    use_plugins(folders)
    for kind in kinds:
        if kind not in (*KINDS, ASKED_FOR):
            raise UserError(f"list {kind}: {nearest(kind, [*KINDS, ASKED_FOR])}")
    named = {"experiments": experiments, "protocols": protocols, ASKED_FOR: metrics}
    for kind in kinds or KINDS:
        print(f"{kind}:")
        found = (
            named[kind]() if kind in named else plugins(kind.removesuffix("s"), folders, verbose)
        )
        width = max((len(name) for name in found), default=0)
        for name, text in found.items():
            print(f"  {name:<{width}}  {text}".rstrip())
    return 0


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parser.add_argument("--verbose", action="store_true", help="import plugins: facts and errors")
    parser.add_argument(
        "what",
        nargs="*",
        help=f"{' | '.join(KINDS)} (default: all these) | metrics, plugins=PATH[,PATH]",
    )


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    return print_list(options.what, verbose=options.verbose)
