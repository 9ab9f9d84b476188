"""Files of the harness's own: written whole or not at all, and read without trust."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], Any], sync: bool = False) -> None:
    """``write(temporary_path)``, then rename: a reader sees all or nothing.

    With ``sync`` the bytes are on the disk before the name is, whatever happens to the machine.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        if sync:
            flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any, sync: bool = False, indent: int | None = None) -> None:
    """``content`` as JSON, whole or not at all."""
    text = json.dumps(content, indent=indent)
    write_atomically(path, lambda p: p.write_text(text), sync)


def read_json(path: Path) -> Any:
    """What a file of JSON holds; None where there is none or it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
