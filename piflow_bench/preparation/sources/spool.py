"""A passing copy of images whose order is not their files': each then has a place of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from piflow_bench.files.atomic import write_array, write_atomically
from piflow_bench.preparation.sources.parquet import Groups
from piflow_bench.preparation.sources.source import ImageSource, Spans


def is_scattered(source: ImageSource) -> bool:
    """Whether its order is not its files': row groups would be read again and again.

    The hub's ImageNet is shuffled, and a row group of it has a hundred images: reading it by class
    would read every byte about a hundred times.
    """
    if not isinstance(source.read, Groups):
        return False
    groups = source.read.places[:, :2]
    turns = 1 + int((np.diff(groups, axis=0) != 0).any(axis=1).sum())
    return turns > 2 * len(np.unique(groups, axis=0))


def spooled_bytes(source: ImageSource) -> int:
    """About how many bytes ``spooled`` writes."""
    assert isinstance(source.read, Groups)
    return sum(file.stat().st_size for file in source.read.files)


def spooled(
    source: ImageSource, path: Path, report: Callable[[int], None] = lambda done: None
) -> ImageSource:
    """The same images, copied in the files' order to ``path``, where each has a place of its own.

    The copy takes about the room of the parquet files. It is made again from its start where it was
    interrupted; ``report`` is called with images copied.

    Raises:
        ReadError: if a file cannot be read.
    """
    read = source.read
    assert isinstance(read, Groups)
    index = path.with_suffix(".npy")
    if index.is_file() and path.is_file():
        spans = np.load(index, allow_pickle=False)
    else:
        spans, done = np.zeros((len(source), 2), np.int64), 0
        rows = np.lexsort(read.places.T[::-1])

        def copy(temporary: Path) -> None:
            nonlocal done
            held: tuple[tuple[int, int], list[bytes]] = ((-1, -1), [])
            with temporary.open("wb") as file:
                for i in rows:
                    f, group, row = (int(number) for number in read.places[i])
                    if held[0] != (f, group):
                        held = (f, group), read.group(f, group)
                        report(done)
                    spans[i] = file.tell(), len(held[1][row])
                    file.write(held[1][row])
                    done += 1

        write_atomically(path, copy)
        write_array(index, spans)
    return ImageSource(
        source.names, source.labels, source.classes, Spans(path, spans), source.description
    )
