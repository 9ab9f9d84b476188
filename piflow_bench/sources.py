"""The modules that a piece of code is made of, found by following its imports, and their digest.

Only modules of the same distribution package count, or, for a plugin that is a file, those that lie
beside it: what else it imports has a version of its own, which is recorded.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

FILE_PLUGIN = "piflow_plugin_"
"""Beginning of the module names of plugins that are files."""
HARNESS = __name__.partition(".")[0]


def is_file_plugin(plugin: type) -> bool:
    """Whether a plugin comes from a file that ``plugins=`` names, not from an installed package."""
    return plugin.__module__.startswith(FILE_PLUGIN)


@cache
def source_digest(plugin: type) -> str:
    """Digest of all modules of a plugin as they were when it was loaded; "" if it has no file.

    Cached for the life of the process, which goes on with the code that it has loaded.
    """
    module = sys.modules[plugin.__module__]
    file = getattr(module, "__file__", None)
    if file is not None and is_file_plugin(plugin):
        return digest([Path(file)], [("", Path(file).parent)])
    return module_digest(module)


@cache
def module_digest(module: ModuleType) -> str:
    """The same of a module of an installed package: of all its package's that it imports."""
    file = getattr(module, "__file__", None)
    if file is None:
        return ""
    return digest([Path(file)], packages(module.__name__.partition(".")[0]))


def package_digest(folder: Path) -> str:
    """sha256 over all modules below a folder."""
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        whole.update(f"{file.relative_to(folder)}\0".encode())
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def packages(*names: str) -> list[tuple[str, Path]]:
    """Imported top-level packages with their folders."""
    found = []
    for name in names:
        for folder in getattr(sys.modules[name], "__path__", ()):
            found.append((name, Path(folder)))
    return found


def digest(files: Sequence[Path], within: Sequence[tuple[str, Path]]) -> str:
    """sha256 over the names and contents of files and of all that they import ``within`` packages.

    Args:
        files: modules to begin with.
        within: names of packages ("" for modules that are found by themselves) and their folders.
    """
    modules = closure(files, within)
    roots = [folder.resolve() for _, folder in within]
    whole = hashlib.sha256()
    for file in sorted(modules):
        root = next((r for r in roots if file.is_relative_to(r)), file.parent)
        whole.update(f"{file.relative_to(root)}\0".encode())
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:16]


def closure(files: Iterable[Path], within: Sequence[tuple[str, Path]]) -> set[Path]:
    """Files and all that they import, directly or not, within packages."""
    found: set[Path] = set()
    waiting = [file.resolve() for file in files]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [module.resolve() for module in _imported(file, within)]
    return found


def _imported(file: Path, within: Sequence[tuple[str, Path]]) -> Iterator[Path]:
    """The files of what one file imports, wherever in it, and of the packages those lie in."""
    for level, name in _names(ast.parse(file.read_bytes(), str(file))):
        if level:
            yield from _steps(file.parents[level - 1], name)
        for package, folder in within:
            if not package:
                yield from _steps(folder, name) if lies_beside(folder, name) else ()
            elif name == package or name.startswith(f"{package}."):
                yield from _steps(folder, name.removeprefix(package).removeprefix("."))


def lies_beside(folder: Path, name: str) -> bool:
    """Whether a module that is imported as ``name`` is one of a plugin's folder.

    Those of Python itself are not: a plugin may be called like one of them. Nor is the harness,
    beside a plugin in a clone's first folder: a second copy of it would know none of its types.
    """
    top = name.partition(".")[0]
    if top == HARNESS or top in sys.stdlib_module_names:
        return False
    return any(step for step in _steps(folder, name) if step != folder / "__init__.py")


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Level and dotted name of every import; ``from a import b`` may mean the module a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = f"{node.module}." if node.module else ""
            yield from ((node.level, f"{start}{alias.name}") for alias in node.names)


def _steps(folder: Path, name: str) -> Iterator[Path]:
    """Files that importing ``name`` below a folder runs: packages on the way, and the module."""
    parts = [part for part in name.split(".") if part]
    for i in range(len(parts) + 1):
        path = folder.joinpath(*parts[:i])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file() and (i or file.name == "__init__.py"):
                yield file
