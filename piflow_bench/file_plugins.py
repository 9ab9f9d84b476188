"""Plugins that are files, and the modules that lie beside them.

A plugin's folder is importable for the plugin and for what it imports there, and for nobody else:
helpers of one name in two folders stay apart, and no installed package is hidden from others. To
Python a plugin is a module of a package of its own, made of its folder; whatever of it was edited
since it was loaded makes another package.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from piflow_bench.errors import UserError
from piflow_bench.sources import FILE_PLUGIN, digest, lies_beside

BASES = {
    "Method": ("method", "piflow_bench.contracts.method"),
    "DatasetPlugin": ("dataset", "piflow_bench.contracts.data"),
    "TeacherPlugin": ("teacher", "piflow_bench.contracts.teacher"),
    "SpacePlugin": ("space", "piflow_bench.contracts.space"),
    "ExtractorPlugin": ("extractor", "piflow_bench.contracts.extractor"),
    "RewardPlugin": ("reward", "piflow_bench.contracts.reward"),
}
"""Base classes of plugins that may be files: the kind of each, and its module."""
METRIC = "Metric"
"""What a file of metrics assigns at its top level: they are values, of no class of their own."""
METRICS_OF = "piflow_bench.evaluation.metrics.metric"


def places(given: Any) -> list[str]:
    """The files and folders that ``plugins=`` names: one path, several as ``a,b``, or a list.

    Raises:
        UserError: if it is nothing of the kind.
    """
    if given is None:
        return []
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [str(each) for each in given]
    if not isinstance(given, str):
        raise UserError(f"plugins={given}: must be a file, a folder, or several: plugins=a,b")
    inner = given[1:-1] if given.startswith("[") and given.endswith("]") else given
    parts = [part.strip().strip("'\"") for part in inner.split(",")]
    # A path may hold any character: it is several only where it is not one.
    several = inner != given or any(part and Path(part).exists() for part in parts)
    return [part for part in parts if part] if several and not Path(given).exists() else [given]


def files(folders: Sequence[str]) -> list[Path]:
    """The plugins' files among those that are named and in folders, each once, as given.

    Raises:
        UserError: if one does not exist.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        path = Path(folder)
        if not path.exists():
            raise UserError(f"plugins={folder}: no such file or folder")
        for file in [path] if path.is_file() else sorted(path.glob("*.py")):
            if not file.name.startswith("_"):
                found.setdefault(file.resolve(), file)
    return list(found.values())


def kinds(file: Path) -> dict[str, str]:
    """Kinds of the plugins in a file, with the names of their classes; nothing is imported.

    By the bases that its classes name, and by ``NAME = Metric(...)`` at its top level. A file of
    which that says nothing is a method, whose class may build upon another method's. One that is
    not Python is of the kind of its first such line: whoever loads it says what is wrong.
    """
    try:
        text = file.read_bytes()
        tree = ast.parse(text)
    except OSError:
        return {"method": ""}
    except (SyntaxError, ValueError):
        return _first_kind(text)
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for base in node.bases:
                name = base.attr if isinstance(base, ast.Attribute) else _id(base)
                if name in BASES:
                    found.setdefault(BASES[name][0], node.name)
    for name in _metrics(tree):
        found.setdefault("metric", name)
    return found or {"method": ""}


def _first_kind(text: bytes) -> dict[str, str]:
    kinds = {base: kind for base, (kind, _) in BASES.items()}
    a_class = rf"^class\s+([A-Za-z]\w*)\([^)]*\b({'|'.join(kinds)})\b"
    a_metric = rf"^([A-Za-z]\w*).*=.*\b{METRIC}\("
    found = re.search(f"{a_class}|{a_metric}", text.decode(errors="replace"), re.MULTILINE)
    if found is None:
        return {"method": ""}
    return {kinds[found[2]]: found[1]} if found[2] else {"metric": found[3]}


def _metrics(tree: ast.Module) -> Iterator[str]:
    """Names to which a module assigns metrics."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            called = node.value.func
            if (called.attr if isinstance(called, ast.Attribute) else _id(called)) == METRIC:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (_id(target) for target in targets if _id(target))


def _id(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def load(path: Path, kind: str = "method") -> Any:
    """The one class of a kind of plugin that a file defines; of metrics all, as a tuple.

    Raises:
        TypeError: if it defines none or several.
    """
    if "." in path.stem:
        raise TypeError("the name of its file has a dot, which Python takes for a package's")
    if kind == "metric":
        module = _module(path)
        names = dict.fromkeys(_metrics(ast.parse(path.read_bytes())))
        metrics = {name: getattr(module, name) for name in names}
        metric = getattr(importlib.import_module(METRICS_OF), METRIC)
        for name, value in metrics.items():
            if not isinstance(value, metric):
                raise TypeError(f"{name} is {type(value).__name__}, not {METRICS_OF}.{METRIC}")
        return tuple(metrics.values())
    name, where = next((n, m) for n, (k, m) in BASES.items() if k == kind)
    base = getattr(importlib.import_module(where), name)
    module = _module(path)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    if len(found) != 1:
        raise TypeError(f"must define exactly one public {name} subclass, found {len(found)}")
    return found[0]


def source(path: Path) -> str:
    """Digest of a plugin's file and of all beside it that it imports."""
    return digest([path], [("", path.parent)])


def _module(path: Path) -> ModuleType:
    content = f"{path}\0{source(path)}"
    package = f"{FILE_PLUGIN}{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if package not in sys.modules:
        _make_package(package, path.parent)
    return importlib.import_module(f"{package}.{path.stem}")


def _make_package(name: str, folder: Path) -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


class _Finder(MetaPathFinder):
    """Finds modules of plugins' packages as Python would, for a loader of their own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(FILE_PLUGIN):
            return None
        importlib.invalidate_caches()  # A helper may be a moment old.
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Runs a module whose imports look into its plugin's folder first."""

    def get_code(self, fullname: str) -> CodeType:
        # Compiled files tell an edit by the second alone.
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        folder = Path(sys.modules[package].__path__[0])
        own: Callable[..., Any] = partial(_import, package, folder)
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": own}
        super().exec_module(module)


def _import(
    package: str,
    folder: Path,
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """What an import statement gives: of a module that lies beside the plugin, that module."""
    if level or not lies_beside(folder, name):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    found = builtins.__import__(f"{package}.{name}", globals, locals, fromlist or (), 0)
    return found if fromlist else sys.modules[f"{package}.{name.partition('.')[0]}"]
