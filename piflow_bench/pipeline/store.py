"""The artifact store: folders under the hash of what determines them, all or nothing.

Layout below the store's root: ``artifacts/<name>/`` finished, ``work/<name>/`` in progress (kept,
so that long stages resume), ``locks/<name>.lock``. A kernel lock per artifact dies with its owner.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from piflow_bench.errors import UserError
from piflow_bench.pipeline.graph import Stage
from piflow_bench.pipeline.history import STARTS, starts_of
from piflow_bench.pipeline.progress import PROGRESS, Progress, read_progress

META = "artifact.json"
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


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


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
        return json.loads((self.path(stage) / META).read_text())

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
        work, final = self.work(stage), self.path(stage)
        starts = starts_of(work)
        for name in (PROGRESS, PROGRESS + ".tmp", STARTS):
            (work / name).unlink(missing_ok=True)
        files = {
            str(p.relative_to(work)): file_digest(p) for p in sorted(work.rglob("*")) if p.is_file()
        }
        content = {
            "stage": stage.kind,
            "label": stage.label,
            "key": stage.key,
            "config": dict(stage.config),
            "inputs": {n: [s.name for s in stages] for n, stages in stage.inputs.items()},
            "files": files,
            "starts": [asdict(s) for s in starts],
            **meta,
        }
        (work / META).write_text(json.dumps(content, indent=1))
        for p in work.iterdir():
            if p.is_file():
                with p.open("rb") as handle:
                    os.fsync(handle.fileno())
        if final.exists():  # A folder without its meta file: never finished.
            shutil.rmtree(final)
        os.rename(work, final)

    def names(self) -> list[str]:
        """Names of all artifacts."""
        return sorted(p.name for p in (self.root / "artifacts").iterdir() if p.is_dir())

    def harm(self, name: str) -> str | None:
        """How an artifact differs from what was recorded, or None."""
        folder = self.root / "artifacts" / name
        try:
            files = json.loads((folder / META).read_text())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"{META} cannot be read"
        there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {META}
        for file in sorted(there ^ set(files)):
            return f"{file} is missing" if file in files else f"{file} was added"
        for file, digest in files.items():
            try:
                if file_digest(folder / file) != digest:
                    return f"{file} was changed"
            except OSError as error:
                return f"{file} cannot be read ({error.strerror})"
        return None

    def broken(self) -> list[str]:
        """Names of artifacts whose files are not what was recorded."""
        return [name for name in self.names() if self.harm(name)]
