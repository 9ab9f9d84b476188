"""The artifact store: folders under the hash of what determines them, all or nothing.

Layout below the store's root: ``artifacts/<name>/`` finished, ``work/<name>/`` in progress (kept,
so that long stages resume), ``locks/<name>.lock``. A kernel lock per artifact dies with its owner.

``artifact.json`` is an artifact's record: written last, once everything else is on the disk. A work
folder that holds one lacks nothing but its new name.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import BaseFileLock, FileLock, Timeout

from piflow_bench.errors import UserError
from piflow_bench.files.atomic import flush, read_json, write_json
from piflow_bench.files.digests import file_digest
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.attempts import STARTS, Start, starts_of
from piflow_bench.pipeline.store.progress import PROGRESS, Progress, read_progress

META = "artifact.json"
PROCESSES = "processes"
"""Folder of what the processes of one training tell each other."""
SCRATCH = (PROGRESS, STARTS, PROCESSES)
"""What the pipeline itself keeps in a work folder: no part of the artifact."""
ENVIRONMENT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def environment_error(error: BaseException) -> str | None:
    """Words for an error that is the machine's and not a cell's: a full or unwritable disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRORS:
            where = f" ({error.filename})" if error.filename else ""
            advice = (
                "free space"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else "make the folder writable"
            )
            return (
                f"{os.strerror(error.errno)}{where}: {advice} or choose another store=PATH, then "
                "run the same command again; finished artifacts are kept"
            )
        text = str(error)
        if "No space left on device" in text or "os error 28" in text.lower():
            return (
                "No space left on device: free space or choose another store=PATH, then run the "
                "same command again; finished artifacts are kept"
            )
        following = error.__cause__ or error.__context__
        if following is None:
            return None
        error = following
    return None


TRASH = "trash"
SMALL = 1 << 20
"""Bytes below which a file's digest costs no more than its size."""
FULL = 1 << 18
"""Free bytes below which a failure is the disk's: NumPy's and torch's writers hide errno 28."""


class Store:
    """Reads and writes artifacts below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            UserError: if they cannot be written.
        """
        try:
            for name in ("artifacts", "work", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / "work" / f".probe-{os.getpid()}"
            probe.write_text("x")
            probe.unlink()
        except OSError as error:
            full = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise UserError(
                f"store={self.root}: cannot be written ({error.strerror}); {full}choose another "
                "store=PATH"
            ) from error

    def full(self) -> str | None:
        """Words for a full disk, or None."""
        if shutil.disk_usage(self.root).free >= FULL:
            return None
        return environment_error(OSError(errno.ENOSPC, "", str(self.root)))

    def path(self, stage: Stage) -> Path:
        """Folder of the finished artifact."""
        return self.root / "artifacts" / stage.name

    def work(self, stage: Stage) -> Path:
        """Folder of the unfinished artifact."""
        return self.root / "work" / stage.name

    def has(self, stage: Stage) -> bool:
        """Whether the artifact is finished."""
        return (self.path(stage) / META).is_file()

    def meta(self, stage: Stage) -> dict[str, Any]:
        """What was recorded with a finished artifact."""
        found: dict[str, Any] = read_json(self.path(stage) / META)
        return found

    def starts(self, stage: Stage) -> list[Start]:
        """All beginnings of a stage, finished or not."""
        if self.has(stage):
            return [Start(**start) for start in self.meta(stage)["starts"]]
        return starts_of(self.work(stage))

    def source(self, stage: Stage) -> str:
        """Digest of the modules of the plugin that made an artifact."""
        starts = self.starts(stage)
        return starts[-1].source if starts else ""

    def progress(self, stage: Stage) -> Progress | None:
        """The last word of a stage in progress."""
        return read_progress(self.work(stage))

    def lock(self, stage: Stage) -> BaseFileLock:
        """Exclusive right to make the artifact; waits for another process that makes it."""
        return self.guard(stage.name)

    def guard(self, name: str, timeout: float = -1) -> BaseFileLock:
        """A kernel lock, which dies with its owner; shared by all who may write to the store."""
        shared = self.root.stat().st_mode & 0o020
        mode = 0o664 if shared else 0o644
        return FileLock(self.root / "locks" / f"{name}.lock", timeout, mode=mode)

    def begun(self, stage: Stage) -> bool:
        """Whether somebody has worked on the artifact."""
        return self.work(stage).is_dir()

    def commit(self, stage: Stage, meta: dict[str, Any]) -> None:
        """Turn the work folder into the artifact, atomically, with its files' digests."""
        work = self.work(stage)
        names = sorted(_contents(work))
        for name in names:
            flush(work / name)
        content = {
            "stage": stage.kind,
            "label": stage.label,
            "key": stage.key,
            "config": stage.task.content,
            "inputs": {n: [s.name for s in stages] for n, stages in stage.inputs.items()},
            "files": {name: file_digest(work / name) for name in names},
            "sizes": {name: (work / name).stat().st_size for name in names},
            "starts": [asdict(s) for s in starts_of(work)],
            **meta,
        }
        write_json(work / META, content, sync=True, indent=1)
        self._publish(stage)

    def finish(self, stage: Stage) -> bool:
        """End the commit of an attempt that was killed in it, if its record had been written."""
        work = self.work(stage)
        if not (work / META).exists():
            return False
        if _harm(work):  # Of a machine that lost what was not on its disk yet.
            (work / META).unlink()
            return False
        self._publish(stage)
        return True

    def _publish(self, stage: Stage) -> None:
        """Give a work folder that has its record its final name."""
        work, final = self.work(stage), self.path(stage)
        for path in work.iterdir():
            if path.name in SCRATCH or path.suffix == ".tmp":
                _remove(path)
        if final.exists():  # A folder without its record: never finished.
            shutil.rmtree(final)
        os.rename(work, final)

    def discard(self, folder: Path) -> None:
        """Remove an artifact or a work folder: it is there, or it is not, and never by half.

        What others were killed in removing goes with it.
        """
        trash = self.root / TRASH
        aside = trash / f"{folder.parent.name}-{folder.name}-{uuid4().hex}"
        while True:
            trash.mkdir(exist_ok=True)
            try:
                os.rename(folder, aside)
                break
            except FileNotFoundError:  # Of the trash: another process has removed it, empty.
                if not folder.exists():
                    raise
        for each in os.listdir(trash) if trash.exists() else ():
            while (trash / each).exists():
                with contextlib.suppress(FileNotFoundError):  # Others may be at it, too.
                    shutil.rmtree(trash / each)
        with contextlib.suppress(OSError):
            trash.rmdir()

    def names(self) -> list[str]:
        """Names of all artifacts."""
        return sorted(p.name for p in (self.root / "artifacts").iterdir() if p.is_dir())

    def harm(self, name: str, digests: bool = True) -> str | None:
        """How an artifact differs from what was recorded, or None; large files by size alone
        without ``digests``.
        """
        try:
            return _harm(self.root / "artifacts" / name, digests)
        except OSError as error:
            return f"{Path(error.filename or name).name} cannot be read ({error.strerror})"

    def _damage(self, stage: Stage, digests: bool) -> str | None:
        """Harm that is known; a disk that does not answer now has not harmed anything."""
        try:
            return _harm(self.path(stage), digests)
        except OSError:
            return None

    def set_aside_damaged(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Remove what is damaged of finished artifacts, so that it is made anew; why, by key.

        Sizes are looked at, and the digests of small files and of what will be read to make others.
        """
        found: dict[str, str] = {}
        seen: set[tuple[str, bool]] = set()
        while True:
            lacking = {s.key for s in stages if not self.has(s)}
            read = {p.key for s in stages if s.key in lacking for p in s.parents()}
            before = len(found)
            for stage in stages:
                step = (stage.key, stage.key in read)
                if stage.key in lacking or step in seen:
                    continue
                seen.add(step)
                if not self._damage(stage, stage.key in read):
                    continue
                with contextlib.suppress(Timeout), self.guard(stage.name, timeout=0):
                    # Another run may have made it anew meanwhile.
                    if self.has(stage) and (words := self._damage(stage, stage.key in read)):
                        self.discard(self.path(stage))
                        found[stage.key] = words
            if len(found) == before:
                return found

    def broken(self) -> list[str]:
        """Names of artifacts whose files are not what was recorded."""
        return [name for name in self.names() if self.harm(name)]


def _contents(folder: Path) -> set[str]:
    """The files of an artifact or a work folder, by name: without its record and the pipeline's."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    names = {str(p) for p in found if p.parts[0] not in SCRATCH and not p.parts[0].endswith(".tmp")}
    return names - {META}


def _harm(folder: Path, digests: bool = True) -> str | None:
    """How a folder differs from its record, or None.

    Raises:
        OSError: if something that is there cannot be read.
    """
    try:
        record = json.loads((folder / META).read_text())
        files, sizes = dict(record["files"]), record.get("sizes", {})
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return f"{META} cannot be read"
    for file in sorted(_contents(folder) ^ set(files)):
        return f"{file} is missing" if file in files else f"{file} was added"
    for file, digest in files.items():
        try:
            size = (folder / file).stat().st_size
            if size != sizes.get(file, size):
                return f"{file} has {size} bytes and not {sizes[file]}"
            if (digests or size < SMALL) and file_digest(folder / file) != digest:
                return f"{file} was changed"
        except FileNotFoundError:
            return f"{file} is missing"
    return None


def _remove(path: Path) -> None:
    """Remove a file, or a folder and what it holds."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
