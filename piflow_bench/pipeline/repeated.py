"""A command that is given again when all that it would make is there.

To build a plan takes torch and the dataset, and longer than to see that nothing has changed. So a
run that came to its end without a word to say records, in its folder, by place, size and time of
change: the modules and settings of every package that has plugins, the files that its settings
name, its artifacts in the store, and its own results; and the versions of packages and the
environment's variables. The same command then needs no plan while all of them are as they were.
Anything else is for the plan to decide.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from piflow_bench.config.files import ENDINGS
from piflow_bench.config.paths import split_paths
from piflow_bench.config.schema import ExperimentConfig, to_plain
from piflow_bench.errors import UserError
from piflow_bench.files.atomic import read_json, write_json
from piflow_bench.files.hub import is_address
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store
from piflow_bench.places import RUNS
from piflow_bench.provenance import versions
from piflow_bench.registry import GROUPS, OURS, find

RECORD = ".repeated.json"
MOST = 20_000
"""Files that are looked at; settings that name more are always planned."""
RESULTS = ("results.parquet", "run.json", "report.html", ".up_to_date")
VARIABLES = ("PIFLOW", "HF_", "CUDA", "OMP_")
"""Beginnings of the names of variables that a plan may depend on."""
WRITTEN = ("PIFLOW_BENCH_STORE",)
"""Those of them that name what a run writes to."""
CONFIGS = "piflow_bench.configs"
"""Entry points of packages of experiments."""


class TooMany(Exception):
    """More files than are looked at."""


def tally(computed: int, found: int, failed: int, seconds: float) -> str:
    """The last line of a run."""
    return (
        f"{computed} stages computed, {found} found in the store, {failed} failed, {seconds:.0f} s"
    )


def unchanged(arguments: Sequence[str]) -> tuple[Path, int] | None:
    """The folder of results that these arguments would give again, and its number of stages.

    None where that is not known for certain.
    """
    try:
        _, paths = split_paths(arguments)
    except UserError:
        return None
    for record in Path(paths.get("runs", RUNS)).glob(f"*/{RECORD}"):
        found = read_json(record)
        if isinstance(found, dict) and found.get("command") == _command(arguments):
            return (record.parent, found["stages"]) if _is_as_it_was(found, record.parent) else None
    return None


def _is_as_it_was(found: Mapping[str, Any], folder: Path) -> bool:
    try:
        return (
            isinstance(found["stages"], int)
            and found["around"] == _around()
            and found["looked"] == look(map(Path, found["roots"]))
            and found["artifacts"] == look(map(Path, found["made"]))
            and found["results"] == look(folder / name for name in RESULTS)
        )
    except (TooMany, OSError, KeyError, TypeError):
        return False


class Watch:
    """What a run looks at, seen before its plan is made."""

    def __init__(self, arguments: Sequence[str], config: ExperimentConfig) -> None:
        self.command, self.around = _command(arguments), _around()
        settings = set(_texts([to_plain(config), [a.partition("=")[2] for a in arguments]]))
        variables = {k: v for k, v in self.around["variables"].items() if k not in WRITTEN}
        settings |= set(_texts(list(variables.values())))
        self.roots = sorted({*_packages(), *_followed(_named(settings))})
        self.looked: str | None = None
        # What an address on the hub stands for is not seen here, nor where another project's
        # dataset has its data.
        named = [
            find(kind).get(given.get("name", ""))
            for kind, given in (("dataset", config.dataset), ("teacher", config.teacher))
        ]
        ours = all(p is not None and p.module.partition(".")[0] in OURS for p in named)
        if ours and not any(map(is_address, settings)):
            with suppress(TooMany, OSError):
                self.looked = look(self.roots)

    def remember(self, folder: Path, store: Store, stages: Sequence[Stage]) -> None:
        """Record a run that has come to its end, all of it made and nothing said."""
        made = sorted({store.path(stage) for stage in stages})
        try:
            if self.looked is None or self.looked != look(self.roots):
                return  # Edited while it ran: what is there now is not what it saw.
            content = {
                "command": self.command,
                "around": self.around,
                "roots": [str(path) for path in self.roots],
                "looked": self.looked,
                "made": [str(path) for path in made],
                "artifacts": look(made),
                "results": look(folder / name for name in RESULTS),
                "stages": len(stages),
            }
        except (TooMany, OSError):
            return
        write_json(folder / RECORD, content)


def look(paths: Iterable[Path]) -> str:
    """sha256 of place, size and time of change of files and of all files below folders.

    Raises:
        TooMany: if there are more than ``MOST``.
        OSError: if one cannot be looked at.
    """
    whole, count = hashlib.sha256(), 0
    for path in paths:
        for name, found in _files(path):
            count += 1
            if count > MOST:
                raise TooMany
            whole.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return whole.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    if not path.is_dir():
        yield str(path), path.stat()
        return
    # Links are followed, to what a plan would read; one in a circle has too many files.
    for folder, below, names in os.walk(path, followlinks=True):
        below[:] = sorted(name for name in below if name != "__pycache__")
        for name in sorted(names):
            place = os.path.join(folder, name)
            yield place, os.stat(place)


def _command(arguments: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([os.getcwd(), *arguments]).encode()).hexdigest()


def _around() -> dict[str, Any]:
    found = {k: v for k, v in os.environ.items() if k.startswith(VARIABLES)}
    return {"variables": found, "versions": versions()}


def _packages() -> Iterator[Path]:
    """Folders of all packages that have plugins or experiments, this one's too."""
    names = {__name__.partition(".")[0], "piflow_reports"}
    for group in (*GROUPS.values(), CONFIGS):
        for entry in entry_points(group=group):
            names.add(entry.module.partition(".")[0])
    for name in names:
        spec = find_spec(name)
        if spec is None:
            continue
        places: Iterable[str | None] = spec.submodule_search_locations or [spec.origin]
        yield from (Path(place) for place in places if place)


def _texts(value: Any) -> Iterator[str]:
    """All texts of a configuration, and the parts of lists that are written as text."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key not in ("runs", "store"):  # A run writes there.
                yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield from (part.strip() for part in (value, *value.strip("[]").split(",")))


def _named(settings: Iterable[str], folder: Path = Path()) -> Iterator[Path]:
    """Files and folders that settings name, where they are read in a folder."""
    for text in settings:
        # A name that is also that of a folder here, such as a method's, is looked at for nothing.
        with suppress(OSError, RuntimeError, ValueError):
            path = folder / Path(text).expanduser()
            if text and path.exists():
                yield path.absolute()


def _followed(paths: Iterable[Path]) -> set[Path]:
    """Files and folders, and what those among them that hold settings name in turn."""
    import yaml

    found, waiting = set[Path](), list(paths)
    while waiting:
        path = waiting.pop()
        if path not in found and path.suffix in ENDINGS and path.is_file():
            with suppress(OSError, ValueError, yaml.YAMLError):
                waiting += _named(_texts(yaml.safe_load(path.read_bytes())), path.parent)
        found.add(path)
    return found
