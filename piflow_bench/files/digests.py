"""sha256 of files and folders."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from piflow_bench.files.atomic import write_json

TICK = 100_000_000
"""Nanoseconds within which a file may change twice and bear one time of change."""
LARGE = 2**30
"""Bytes from which on a digest is kept on the disk: to read such a file takes seconds."""


def file_digest(path: Path) -> str:
    """sha256 of a file as it is now."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files.

    A file that keeps its size and time of change is read once in the life of the process.
    """
    if path.is_file():
        return _digest_of(path)
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(f"{file.relative_to(path)}\0{_digest_of(file)}\n".encode())
    return whole.hexdigest()


def _digest_of(file: Path) -> str:
    facts = file.stat()
    if time.time_ns() - facts.st_mtime_ns < TICK:
        return file_digest(file)
    return _known_digest(file, facts.st_size, facts.st_mtime_ns)


@cache  # A folder of images has more files than any fixed number.
def _known_digest(path: Path, size: int, changed: int) -> str:
    if size < LARGE:
        return file_digest(path)
    place, facts = path.resolve(), {"size": size, "changed": changed}
    kept = _kept() / f"{hashlib.sha256(str(place).encode()).hexdigest()}.json"
    with suppress(OSError, ValueError):
        known = json.loads(kept.read_text())
        if known["facts"] == facts:
            return str(known["sha256"])
    found = file_digest(path)
    with suppress(OSError):  # Where nothing can be written it is read again.
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"file": str(place), "facts": facts, "sha256": found})
    return found


def _kept() -> Path:
    """Folder of large files' digests, in the user's cache."""
    return Path.home() / ".cache" / "piflow_bench" / "digests"
