"""`list`: plugins and experiments, from metadata and file names alone."""

from __future__ import annotations

from importlib.resources import files

from piflow_bench.config import split_paths
from piflow_bench.errors import UserError, nearest
from piflow_bench.registry import PluginError, find

KINDS = ("methods", "datasets", "experiments")


def experiments() -> dict[str, str]:
    """Names of experiments and the distribution that brings them."""
    found = {}
    for plugin in find("config").values():
        package = plugin.load()
        for file in files(package).joinpath("experiment").iterdir():
            if file.name.endswith(".yaml"):
                found[file.name.removesuffix(".yaml")] = plugin.source
    return dict(sorted(found.items()))


def print_list(arguments: list[str], verbose: bool) -> int:
    """Print the kinds asked for; with ``verbose`` also methods' facts and load errors."""
    kinds = [a for a in arguments if "=" not in a]
    _, paths = split_paths([a for a in arguments if "=" in a])
    folders = [paths["plugins"]] if "plugins" in paths else []
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"list {kind}: {nearest(kind, list(KINDS))}")
    for kind in kinds or KINDS:
        print(f"{kind}:")
        if kind == "experiments":
            for name, source in experiments().items():
                print(f"  {name:<22} {source}")
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
