"""Opening a user's own pictures, whatever they are kept in, and knowing them again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.archives import ENDINGS, is_archive
from piflow_bench.evaluation.pictures.files import EXTENSIONS, Found, refuse_empty
from piflow_bench.preparation.picture_arrays import idx_labels, is_idx, open_idx, open_npy, open_npz
from piflow_bench.preparation.picture_files import PictureSource, open_folder, open_packed
from piflow_bench.preparation.picture_tables import has_column, open_parquet

NONE = "none"
"""As ``labels``: pictures without classes, whatever their source says."""


def open_source(
    path: Path, found: Found | None, labels: str | None, file: Path | None
) -> PictureSource:
    """The pictures of a folder or file.

    Args:
        path: the folder or file.
        found: what lies in the folder; None for a file.
        labels: as the user gave it: None, ``none``, a file, or a column of parquet files.
        file: the file of labels, where it is one (see ``labels_file``).

    Raises:
        UserError: naming what is wrong with it.
    """
    classed = labels is None
    tables = _tables(path, found)
    if tables:
        root = path if found else path.parent
        column = labels if labels not in (None, NONE) and file is None else None
        if column is not None and not has_column(root / tables[0], column):
            raise UserError(f"labels={labels}: no such file, nor column of {tables[0]}")
        return open_parquet(root, tables, column, classed or column is not None)
    if labels not in (None, NONE) and file is None:
        raise UserError(f"labels={labels}: no such file")
    if found is not None:
        if not found.names and any(is_idx(name) for name in found.others):
            return open_idx(path, classed)
        refuse_empty(found, f"source={path}")
        return open_folder(path, found, classed)
    if is_archive(path):
        return open_packed(path, classed)
    if is_idx(path.name):
        return open_idx(path, classed)
    arrays = {".npz": open_npz, ".npy": open_npy}.get(path.suffix.lower())
    if arrays is not None:
        return arrays(path, classed)
    ways = (
        f"no folder of images, archive ({', '.join(ENDINGS)}), .npz, .npy or .parquet file, nor "
        "idx file by its name (train-images-idx3-ubyte.gz)"
    )
    if path.suffix.lower() in EXTENSIONS:
        ways = "one image; give the folder of all of them"
    raise UserError(f"source={path}: {ways}")


def _tables(path: Path, found: Found | None) -> Sequence[str]:
    """The parquet files of a folder that holds no images as files, or the one that is given."""
    if found is None:
        return [path.name] if path.suffix.lower() == ".parquet" else []
    return [] if found.names else [n for n in found.others if n.lower().endswith(".parquet")]


def labels_file(source: Path, labels: str | None) -> Path | None:
    """The file of labels that is meant: as it is given, or in the source's folder."""
    if labels in (None, NONE):
        return None
    places = Path(str(labels)).expanduser(), source / str(labels)
    return next((place for place in places if place.is_file()), None)


def stamp(path: Path, found: Found | None = None) -> str:
    """sha256 of names, sizes and times of change: the same while nobody wrote to the source.

    A file's own name does not count, nor does where a folder lies. What is written within the
    clock's resolution and keeps its size goes unseen.
    """
    whole = hashlib.sha256()
    files = {"": path}
    if found is not None:
        files = {name: path / name for name in sorted((*found.names, *found.others))}
    elif is_idx(path.name) and (beside := idx_labels(path)):
        files["labels"] = beside
    for name, file in files.items():
        state = file.stat()
        whole.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "replace"))
    return whole.hexdigest()
