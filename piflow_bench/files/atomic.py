"""Files of the harness's own: written whole or not at all, and read without trust."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


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


def write_text(path: Path, text: str) -> None:
    """``text`` in UTF-8 with its own line ends, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8", newline="\n"))


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """A table without its index, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda p: table.to_parquet(p, index=False))


def write_arrays(path: Path, arrays: Mapping[str, Any], sync: bool = False) -> None:
    """Arrays by name as one npz file, whole or not at all."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:  # A name would be given an ending.
            np.savez(handle, **arrays)

    write_atomically(path, write, sync)


def write_array(path: Path, array: Any, sync: bool = False) -> None:
    """An array as an npy file, whole or not at all."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            np.save(handle, array)

    write_atomically(path, write, sync)


def exchange(fresh: Path, folder: Path, old: Path) -> None:
    """A whole new folder in the place of another, which is ``old`` for as long as that takes.

    At any time one of the two is whole under one of the names.
    """
    if folder.exists():  # Else the one before, if any, is the only whole one.
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> Any:
    """What a file of JSON holds; None where there is none or it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def check_writable(key: str, folder: Path) -> None:
    """UserError, naming the setting, unless a folder can be made and written; leaves nothing.

    It is tried: permissions say nothing of file systems like /proc, nor does root heed them. What
    is tried has a name of its own, so that no other process's new folder is taken away.
    """
    whole = folder.absolute()
    # A link that leads nowhere is there: nothing can be made below it.
    existing = next(p for p in (whole, *whole.parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryDirectory(dir=existing) as probe:
            Path(probe, whole.relative_to(existing)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{key}={folder}: cannot be written ({error.strerror}); choose another {key}=PATH"
        ) from error


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
