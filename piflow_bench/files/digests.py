"""sha256 of files and folders."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


def file_digest(path: Path) -> str:
    """sha256 of a file as it is now."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files.

    A file that keeps its size and time of change is read once in the life of the process.
    """
    if path.is_file():
        return _known_digest(path, path.stat().st_size, path.stat().st_mtime_ns)
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        facts = file.stat()
        part = _known_digest(file, facts.st_size, facts.st_mtime_ns)
        whole.update(f"{file.relative_to(path)}\0{part}\n".encode())
    return whole.hexdigest()


@cache  # A folder of images has more files than any fixed number.
def _known_digest(path: Path, size: int, changed: int) -> str:
    return file_digest(path)
