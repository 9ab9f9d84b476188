"""The verb store: what it holds and who uses it, whether it is whole, and what can go."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from filelock import Timeout
from rich.console import Console
from rich.table import Table

from piflow_bench.config.paths import split_paths
from piflow_bench.errors import CHECK_FAILED, OK, UserError
from piflow_bench.evaluation.cache import ABOUT, FEATURES
from piflow_bench.files.atomic import read_json
from piflow_bench.pipeline.store.store import META, Store
from piflow_bench.pipeline.store.uses import DAY, Use, damaged, uses
from piflow_bench.places import CACHE, RUNS, store_root
from piflow_bench.progress_bar import bars

INPUTS, MADE = "inputs", "made.json"
"""Folder beside a store in ``runs/`` of what profiles generate, and the mark of each."""
DAYS = 7.0
"""What is younger is kept, used or not: a run may be about to need it."""


@dataclass(frozen=True)
class Entry:
    """A folder of the store: an artifact, or work that was not finished."""

    path: Path
    bytes: int
    changed: float
    """Of what `evaluate` keeps also when it was last used."""
    used_by: tuple[Path, ...]
    """Runs."""

    @property
    def kind(self) -> str:
        """Of the stage, or of what is no stage's."""
        place = self.path.parent.name
        if place == CACHE:
            return f"{_record(self.path).get('kind', FEATURES)} of evaluate"
        return "generated inputs" if place == INPUTS else self.path.name.rpartition("-")[0]


def open_store(settings: Sequence[str]) -> tuple[Store, dict[str, str]]:
    """The store that ``store=`` or ``runs=`` name, and the other settings.

    Raises:
        UserError: if there is none.
    """
    others, paths = split_paths(settings, ("store", "runs"))
    root = store_root(paths.get("store"), paths.get("runs", RUNS))
    store = Store(root.absolute())
    if not any((store.root / part).is_dir() for part in ("artifacts", CACHE)):
        raise UserError(f"store={root}: no store is there; name it with store=PATH")
    return store, dict(o.split("=", 1) for o in others)


def size_text(size: float) -> str:
    """Words for a number of bytes."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # Somebody else's work may end while we look.
            total += path.stat().st_size if path.is_file() else 0
    return total


def entries(store: Store, part: str, known: Sequence[Use]) -> Iterator[Entry]:
    """The folders of one part, artifacts or work."""
    for folder in _folders(store.root / part):
        runs = tuple(u.run for u in known if folder.name in u.artifacts)
        yield Entry(folder, _size(folder), folder.stat().st_mtime, runs)


def caches(store: Store) -> Iterator[Entry]:
    """What can be had again and belongs to no run: of `evaluate`, and generated inputs."""
    made = [p for p in _folders(store.root.parent / INPUTS) if (p / MADE).is_file()]
    for folder in [*_folders(store.root / CACHE), *made]:
        yield Entry(folder, _size(folder), folder.stat().st_mtime, ())


def _folders(parent: Path) -> list[Path]:
    return sorted(p for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []


# ------------------------------------------------------------------ ls


def print_store(settings: Sequence[str], verbose: bool) -> None:
    """Sizes by kind and by run; with ``verbose`` every artifact, what it is and who uses it."""
    store, others = open_store(settings)
    _refuse(others)
    known, console = uses(store), Console()
    for record in damaged(store):
        console.print(f"damaged: {record}", highlight=False, markup=False, soft_wrap=True)
    artifacts = list(entries(store, "artifacts", known))
    work = list(entries(store, "work", known))
    artifacts += caches(store)
    kinds = Table(title=f"{store.root}: {size_text(sum(e.bytes for e in artifacts + work))}")
    for name in ("kind", "artifacts", "size", "used by no run", "unfinished"):
        kinds.add_column(name, justify="left" if name == "kind" else "right")
    for kind in sorted({e.kind for e in artifacts + work}):
        of_kind = [e for e in artifacts if e.kind == kind]
        unused = [e for e in of_kind if not e.used_by]
        begun = [e for e in work if e.kind == kind]
        kinds.add_row(kind, str(len(of_kind)), *(_sum(part) for part in (of_kind, unused, begun)))
    console.print(kinds)
    runs = Table(title="runs")
    for name in ("run", "artifacts", "size", "of it shared"):
        runs.add_column(name, justify="left" if name == "run" else "right", overflow="fold")
    for use in known:
        mine = [e for e in artifacts if use.run in e.used_by]
        shared = [e for e in mine if len(e.used_by) > 1]
        name = str(use.run) + ("" if use.is_there else f" ({_end(use)})")
        runs.add_row(name, f"{len(mine)} of {len(use.artifacts)}", _sum(mine), _sum(shared))
    console.print(runs)
    for entry in sorted(artifacts, key=lambda e: -e.bytes) if verbose else []:
        text = f"{size_text(entry.bytes):>8}  {entry.path.name}  {_label(entry.path)}"
        names = ", ".join(r.name for r in entry.used_by) or "no run"
        if entry.path.parent.name == CACHE:  # No run uses them.
            names = f"last used {time.strftime('%Y-%m-%d', time.localtime(entry.changed))}"
        console.print(f"{text}; {names}", highlight=False, markup=False, soft_wrap=True)


def _sum(part: Sequence[Entry]) -> str:
    return size_text(sum(e.bytes for e in part)) if part else ""


def _label(folder: Path) -> str:
    return str(_record(folder).get("label", "without its record"))


def _record(folder: Path) -> dict[str, Any]:
    """What a folder says of itself; nothing where it does not."""
    for name in (META, ABOUT):
        found = read_json(folder / name)
        if isinstance(found, dict):
            return found
    return {}


# ------------------------------------------------------------------ verify


def verify(settings: Sequence[str]) -> bool:
    """Recompute all digests and name what differs; whether all is whole."""
    store, others = open_store(settings)
    _refuse(others)
    console = Console()
    artifacts = _folders(store.root / "artifacts")
    kept = [p for f in _folders(store.root / CACHE) for p in sorted(f.glob("*.npz"))]
    with bars(console) as progress:
        task = progress.add_task("artifacts", total=len(artifacts) + len(kept), words="")
        broken = {}
        for path in [*artifacts, *kept]:
            words = store.harm(path.name) if path.is_dir() else _torn(path)
            if words:
                broken[path] = words
            progress.update(task, advance=1)
    for path, words in broken.items():
        text = f"broken {path}: {words}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    whole = f"{len(artifacts)} artifacts, {len(kept)} files of evaluate, {len(broken)} broken"
    advice = "; remove these, and the commands that made them make them anew"
    console.print(whole + (advice if broken else ""), highlight=False)
    return not broken


def _torn(path: Path) -> str | None:
    """How a file of `evaluate` differs from its own checksums, or None."""
    try:
        with ZipFile(path) as file:
            bad = file.testzip()
    except (OSError, BadZipFile):
        return "cannot be read"
    return f"{bad} was changed" if bad else None


# ------------------------------------------------------------------ gc


def collect_garbage(settings: Sequence[str], delete: bool) -> None:
    """Name, or remove, what no run uses: artifacts, unfinished work, records of jobs."""
    store, others = open_store(settings)
    try:
        days = float(others.pop("days", DAYS))
    except ValueError as error:
        raise UserError("days=: must be a number") from error
    _refuse(others, "days=")
    console = Console()
    for record in damaged(store) if delete else []:
        raise UserError(
            f"{record}: cannot be read, so nobody knows what a run uses; run that run's command "
            "again, or remove the file if the run is gone"
        )
    known = uses(store)
    alive = [u for u in known if u.counts(days)]
    before = time.time() - days * DAY
    gone = 0
    parts = [entries(store, part, alive) for part in ("artifacts", "work")]
    for entry in [*parts[0], *parts[1], *caches(store)]:
        if entry.used_by or entry.changed > before:
            continue
        if not delete or _remove(store, entry.path, days):
            gone += entry.bytes
            words = "removed" if delete else "would remove"
            text = f"{words} {size_text(entry.bytes):>8}  {_place(store, entry.path)}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    for use in known:
        if use not in alive:
            console.print(f"{_end(use)}: {use.run}", highlight=False, soft_wrap=True)
    if delete:
        _forget(store, alive)
    end = f"{size_text(gone)} freed" if delete else f"{size_text(gone)} would be freed by --delete"
    console.print(f"{end}; what is younger than {days:g} days stays", highlight=False)


def _end(use: Use) -> str:
    return f"its results are {'replaced' if use.run.is_dir() else 'gone'}"


def _place(store: Store, path: Path) -> Path:
    return path.relative_to(store.root if path.is_relative_to(store.root) else store.root.parent)


def _remove(store: Store, folder: Path, days: float) -> bool:
    """Remove a folder, at once or not at all; not where somebody wants its artifact by now."""
    try:
        with store.guard(folder.name, timeout=0):
            if any(folder.name in u.artifacts for u in uses(store) if u.counts(days)):
                return False
            store.discard(folder)
    except Timeout:
        return False
    return True


def _forget(store: Store, alive: Sequence[Use]) -> None:
    """Remove records of runs that are gone, and of the jobs of stages that nobody uses."""
    for use in uses(store):
        if use.record not in {u.record for u in alive} and not use.is_there:
            use.record.unlink(missing_ok=True)
    parts = [_folders(store.root / part) for part in ("artifacts", "work")]
    names = {folder.name for folder in (*parts[0], *parts[1])}
    for use in alive:
        names |= use.artifacts
    for path in (store.root / "slurm").glob("*.json"):
        if path.name.partition(".")[0] not in names:
            path.unlink(missing_ok=True)


def _refuse(others: dict[str, str], known: str = "") -> None:
    for key in others:
        words = f"store=PATH, runs=PATH{', ' + known + 'N' if known else ''}"
        raise UserError(f"{key}=: no such setting here; this verb takes {words}")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What may be said after the verb."""
    parts = parser.add_subparsers(dest="what", metavar="ls | verify | gc", required=True)
    places = "store=PATH, runs=PATH"
    ls = parts.add_parser("ls", help="sizes by kind and by run")
    ls.add_argument(
        "--verbose", action="store_true", help="every artifact, what it is, who uses it"
    )
    ls.add_argument("settings", nargs="*", help=places)
    whole = parts.add_parser("verify", help="recompute all digests; exit code 4 if one differs")
    whole.add_argument("settings", nargs="*", help=places)
    gc = parts.add_parser("gc", help="what no run uses")
    gc.add_argument("--delete", action="store_true", help="remove it; otherwise it is only named")
    gc.add_argument("settings", nargs="*", help=f"{places}, days=7: what is younger stays")


def call(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    if options.what == "verify":
        return OK if verify(options.settings) else CHECK_FAILED
    if options.what == "gc":
        collect_garbage(options.settings, options.delete)
    else:
        print_store(options.settings, options.verbose)
    return OK
