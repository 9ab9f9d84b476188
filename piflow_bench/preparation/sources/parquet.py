"""Images in Hugging Face parquet shards, whose row groups are read whole."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.preparation.sources.source import ImageSource, ReadError

HELD_GROUPS = 8
"""Row groups of parquet files that are kept in memory."""


def parquet_files(path: Path) -> list[Path]:
    """The parquet files that a path is or holds: of several splits those of ``train``."""
    if path.suffix == ".parquet" and path.is_file():
        return [path]
    if not path.is_dir():
        return []
    files = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    # A repository of the hub has its splits side by side.
    return [file for file in files if file.name.startswith("train")] or files


class Groups:
    """Images in row groups of parquet files, each read whole and kept for a while.

    ``places`` ``(n, 3)`` says of every image in which file, row group and row it lies.
    """

    def __init__(self, files: list[Path], places: np.ndarray, column: str = "image") -> None:
        self.files, self.places, self.column = files, places, column
        self._held: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Groups, (self.files, self.places, self.column)  # A lock cannot be pickled.

    def group(self, f: int, group: int) -> list[bytes]:
        """All images of a row group, in the file's order."""
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        try:
            file = pq.ParquetFile(self.files[f])
            table = file.read_row_group(group, columns=[f"{self.column}.bytes"])
        except (ArrowException, OSError) as error:
            raise ReadError(f"{self.files[f]}: {str(error).splitlines()[0]}") from error
        # What is null is damaged, as an empty file is.
        return [(row or {}).get("bytes") or b"" for row in table.column(self.column).to_pylist()]

    def __call__(self, i: int) -> bytes:
        """The i-th image's file."""
        f, group, row = (int(number) for number in self.places[i])
        with self._lock:
            if (f, group) not in self._held:
                while len(self._held) >= HELD_GROUPS:
                    self._held.popitem(last=False)
                self._held[f, group] = self.group(f, group)
            self._held.move_to_end((f, group))
            return self._held[f, group][row]


def parquet_shards(files: list[Path], path: Path, classes: int) -> ImageSource:
    """Shards with columns ``image`` {bytes, path} and ``label``."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    found: list[tuple[int, str, tuple[int, int, int]]] = []
    for f, file in enumerate(files):
        try:
            table = pq.ParquetFile(file)
            columns = {table.schema.column(c).path for c in range(len(table.schema))}
            if not {"image.bytes", "label"} <= columns:
                raise KeyError(f"it has {', '.join(sorted(columns))}")
            for group in range(table.num_row_groups):
                rows = table.read_row_group(group, columns=["label", "image.path"]).to_pylist()
                for r, row in enumerate(rows):
                    name = (row.get("image") or {}).get("path") or f"{f:05d}-{group:05d}-{r:05d}"
                    found.append((int(row["label"]), str(name), (f, group, r)))
        except (ArrowException, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(
                f"source={file}: needs columns image (bytes, path) and label "
                f"({str(error).splitlines()[0]})"
            ) from error
    found.sort()
    return ImageSource(
        [f"{label}/{name}" for label, name, _ in found],
        [label for label, *_ in found],
        None,
        Groups(files, np.array([place for *_, place in found], np.int64).reshape(-1, 3)),
        f"parquet, {path}",
    )
