"""Rows that a long computation makes batch by batch, kept on disk so that a stopped one goes on."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from piflow_bench import interruption
from piflow_bench.files.atomic import write_arrays


class Parts:
    """Arrays that grow by their first axis; what was kept survives the process.

    Args:
        folder: where parts are kept, each written whole or not at all; None: in memory alone.
        seconds: between two of them.
    """

    def __init__(self, folder: Path | None = None, seconds: float = 20.0) -> None:
        self.folder, self.seconds = folder, seconds
        self.rows = 0
        """How many there are, those of an earlier process included."""
        self._fresh: list[dict[str, np.ndarray]] = []
        self._files: list[Path] = []
        self._kept_at = time.monotonic()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._go_on(folder)

    def _go_on(self, folder: Path) -> None:
        """Take what is there from the first row on without a gap or damage; drop what is not."""
        for file in sorted(folder.glob("*.npz")):
            first, _, end = file.stem.partition("-")
            if first == f"{self.rows:012d}" and end.isdigit() and _is_whole(file):
                self._files.append(file)
                self.rows = int(end)
            else:  # A removal that was cut short, or a disk's damage, came before.
                file.unlink()

    def add(self, rows: int, **arrays: Any) -> None:
        """Add a batch of so many rows.

        Raises:
            interruption.Stopped: if it was asked for; everything is kept before.
        """
        self.rows += rows
        self._fresh.append({name: np.asarray(values) for name, values in arrays.items()})
        if self.folder is None:
            return
        if interruption.asked() or time.monotonic() - self._kept_at > self.seconds:
            self._keep()
        if interruption.asked():
            raise interruption.Stopped

    def arrays(self) -> dict[str, np.ndarray]:
        """All rows of every array; they are kept, too."""
        if self.folder is not None and self._fresh:
            self._keep()
        parts = [dict(np.load(file, allow_pickle=False)) for file in self._files] + self._fresh
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def forget(self) -> None:
        """Remove what is on disk."""
        if self.folder is not None:
            shutil.rmtree(self.folder)

    def _keep(self) -> None:
        assert self.folder is not None
        first = self._files[-1].stem.partition("-")[2] if self._files else f"{0:012d}"
        path = self.folder / f"{first}-{self.rows:012d}.npz"
        together = {n: np.concatenate([p[n] for p in self._fresh]) for n in self._fresh[0]}
        write_arrays(path, together, sync=True)
        self._files.append(path)
        self._fresh = []
        self._kept_at = time.monotonic()


def _is_whole(file: Path) -> bool:
    try:
        with ZipFile(file) as parts:
            return parts.testzip() is None
    except BadZipFile:
        return False
