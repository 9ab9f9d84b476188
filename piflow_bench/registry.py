"""One registry for every kind of plugin.

Built-in plugins are found exactly as a third party's: through entry points of the groups
``piflow_bench.methods``, ``datasets``, ``teachers``, ``spaces``, ``extractors``, ``rewards`` and
``metrics``, or as files in folders that ``plugins=A,B`` names (the file's name is the plugin's, its
kind that of the class in it, or of the metrics that it assigns). Names come from metadata, file
names and sources, without importing anything.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from piflow_bench import file_plugins
from piflow_bench.errors import UserError, nearest
from piflow_bench.meanings import source_of, summary
from piflow_bench.sources import module_digest

OURS = ("piflow_bench", "piflow_methods")
"""Packages of this project."""
GROUPS = {
    "method": "piflow_bench.methods",
    "dataset": "piflow_bench.datasets",
    "teacher": "piflow_bench.teachers",
    "space": "piflow_bench.spaces",
    "extractor": "piflow_bench.extractors",
    "reward": "piflow_bench.rewards",
    "metric": "piflow_bench.metrics",
    "config": "piflow_bench.configs",
}


class PluginError(UserError):
    """A plugin that cannot be loaded, with the reason."""


@dataclass(frozen=True)
class Plugin:
    """Where a plugin is found; ``load`` imports it."""

    kind: str
    name: str
    source: str
    """The distribution, or the file."""
    importer: Callable[[], Any]
    module: str = ""
    """Where its object lies, of a plugin of an installed package."""
    attribute: str = ""
    """The object's name there."""

    def load(self) -> Any:
        """The plugin's object.

        Raises:
            PluginError: if importing it fails.
        """
        try:
            return self.importer()
        except (Exception, SystemExit) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            if isinstance(error, SyntaxError) and error.filename:
                where = f"{Path(error.filename).name}:{error.lineno}"
                error = SyntaxError(error.msg)
            raise PluginError(
                f"{self.kind} '{self.name}' ({self.source}) cannot be loaded: "
                f"{type(error).__name__}: {error} ({where})"
            ) from error

    def summary(self) -> str:
        """What it is, in the first line of its docstring; nothing is imported."""
        if not self.module:
            return summary(
                Path(self.source), file_plugins.kinds(Path(self.source)).get(self.kind, "")
            )
        return summary(source_of(self.module), self.attribute)

    def foreign_source(self) -> str:
        """Digest of the modules of a plugin that is not this project's; "" of one that is.

        This project's have versions and digests of their own, which say when outputs change.
        """
        if not self.module:
            return file_plugins.source(Path(self.source).resolve())
        if self.module.partition(".")[0] in OURS:
            return ""
        self.load()
        return module_digest(sys.modules[self.module])


def _file_plugins(kind: str, folders: Sequence[str]) -> list[Plugin]:
    return [
        Plugin(kind, file.stem, str(file), partial(file_plugins.load, file.resolve(), kind))
        for file in file_plugins.files(folders)
        if kind in file_plugins.kinds(file)
    ]


def _places() -> tuple[tuple[str, int], ...]:
    """Where packages are looked for, and when something was last installed there."""

    def changed(path: str) -> int:
        try:
            return os.stat(path or ".").st_mtime_ns
        except OSError:  # Python looks for none there either.
            return 0

    return tuple((path, changed(path)) for path in sys.path)


@lru_cache(maxsize=1)  # A plan asks a hundred times, and to read all metadata takes 5 ms.
def _installed(places: tuple[tuple[str, int], ...]) -> dict[str, list[Plugin]]:
    """Plugins of the packages at ``places`` by kind."""
    every, name_of = entry_points(), cache(lambda distribution: distribution.name)
    return {
        kind: [
            Plugin(kind, e.name, name_of(e.dist) if e.dist else e.value, e.load, e.module, e.attr)
            for e in every.select(group=group)
        ]
        for kind, group in GROUPS.items()
    }


def find(kind: str, folders: Sequence[str] = ()) -> dict[str, Plugin]:
    """All plugins of a kind by name.

    Raises:
        UserError: if two have one name (both are named), or a folder does not exist.
    """
    found = [*_installed(_places())[kind], *_file_plugins(kind, folders)]
    plugins: dict[str, Plugin] = {}
    for plugin in found:
        other = plugins.get(plugin.name)
        if other is not None and other.source != plugin.source:
            raise UserError(
                f"two {kind}s are called '{plugin.name}': one from {other.source}, one from "
                f"{plugin.source}; rename or uninstall one"
            )
        plugins[plugin.name] = plugin
    return dict(sorted(plugins.items()))


def get(kind: str, name: str, folders: Sequence[str] = ()) -> Any:
    """The loaded plugin of that name.

    Raises:
        UserError: for an unknown name, naming the nearest; PluginError if it cannot be loaded.
    """
    plugins = find(kind, folders)
    if name not in plugins:
        raise UserError(f"no {kind} is called '{name}'; {nearest(name, list(plugins))}")
    return plugins[name].load()
