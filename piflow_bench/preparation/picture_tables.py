"""A user's own pictures in parquet files, as Hugging Face's datasets write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.images import printable
from piflow_bench.evaluation.pictures.pillow import Header, decode, header
from piflow_bench.preparation.picture_files import PictureSource, divided, is_part
from piflow_bench.preparation.sources.parquet import Groups
from piflow_bench.preparation.sources.source import ReadError

LABELS = ("label", "labels", "class", "fine_label")
"""Columns of classes, the first of these that is there, where a file does not say which one is."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Columns:
    """Where pictures and classes are."""

    image: str
    label: str | None
    names: tuple[str, ...] | None
    """Of the classes, whose numbers the column of labels holds."""


def open_parquet(
    root: Path, files: Sequence[str], label: str | None, classed: bool
) -> PictureSource:
    """The images of parquet files, in the files' order.

    Args:
        root: the folder they lie in.
        files: their paths below it; how their names begin (``train-00000.parquet``), or their
            folder, says which part of a split they are.
        label: the column of classes; None: the one that the file says is one, or ``LABELS``.
        classed: whether classes are wanted.

    Raises:
        UserError: naming the file and what it lacks.
    """
    paths = [root / name for name in files]
    columns = _columns(paths[0], label, classed)
    places: list[tuple[int, int, int]] = []
    names: list[str] = []
    classes: list[str] = []
    for f, path in enumerate(paths):
        for group, row, name, found in _rows(path, columns):
            places.append((f, group, row))
            names.append(name or f"{files[f]}:{group}:{row}")
            if columns.label is not None:
                classes.append(_class(found, columns, f"source: {path}, row {row}"))
    if not places:
        raise UserError(f"source={root}: no images in {files[0]}")
    parts = [_part(name) for name in files]
    division = divided([parts[f] for f, *_ in places])
    rows = division.rows if division else list(range(len(places)))
    where = [f"source: {paths[places[i][0]]}, {names[i]}" for i in rows]
    read = Groups(paths, np.array([places[i] for i in rows], np.int64), columns.image)

    def opened(i: int, how: Callable[[BytesIO, str], Result]) -> Result:
        try:
            return how(BytesIO(read(i)), where[i])
        except ReadError as error:
            raise UserError(f"source: {error}") from error

    def seen(i: int) -> Header:
        return opened(i, header)

    return PictureSource(
        tuple(names[i] for i in rows),
        seen,
        lambda i: opened(i, decode),
        tuple(classes[i] for i in rows) if columns.label else None,
        columns.names,
        division.train if division else None,
        by_place=True,
        notes=(division.note,) if division else (),
    )


def has_column(path: Path, name: str) -> bool:
    """Whether a parquet file has a column."""
    return name in _schema(path).names


def _schema(path: Path) -> Any:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return pq.ParquetFile(path).schema_arrow
    except (ArrowException, OSError) as error:
        words = str(error).partition("\n")[0]
        raise UserError(f"source: {path}: no whole parquet file ({words})") from error


def _columns(path: Path, label: str | None, classed: bool) -> _Columns:
    from pyarrow import types

    schema = _schema(path)
    where = f"source: {path}"
    images = [
        field.name
        for field in schema
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    if len(images) != 1:
        held = f"several, {', '.join(images)}" if images else f"only {', '.join(schema.names)}"
        raise UserError(
            f"{where}: needs one column of images, a struct of bytes and path, and has {held}; "
            "keep one of them"
        )
    stated = _class_labels(schema)
    if not classed:
        return _Columns(images[0], None, None)
    if label is None and len(stated) > 1:
        raise UserError(
            f"{where}: several columns of classes, {', '.join(stated)}; choose labels=COLUMN"
        )
    usual = [*stated, *(name for name in LABELS if name in schema.names)]
    label = label or next(iter(usual), None)
    return _Columns(images[0], label, stated.get(label) if label else None)


def _class_labels(schema: Any) -> dict[str, tuple[str, ...]]:
    """Columns of classes and these' names, as ``datasets`` writes them beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: tuple(printable(each) for each in feature["names"])
            for name, feature in features.items()
            if feature.get("_type") == "ClassLabel" and name in schema.names
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _rows(path: Path, columns: _Columns) -> list[tuple[int, int, str | None, Any]]:
    """Row group, row in it, name and class of all images of a file."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    found: list[tuple[int, int, str | None, Any]] = []
    try:
        file = pq.ParquetFile(path)
        held = {file.schema.column(c).path for c in range(len(file.schema))}
        bytes_, place = f"{columns.image}.bytes", f"{columns.image}.path"
        if not {bytes_, columns.label or bytes_} <= held:
            raise KeyError(f"it has {', '.join(sorted(held))}")
        # Where there is nothing to be read beside the images, their number is.
        wanted = [name for name in (columns.label, place) if name in held]
        for group in range(file.num_row_groups):
            rows: list[dict[str, Any]] = [{}] * file.metadata.row_group(group).num_rows
            if wanted:
                rows = file.read_row_group(group, columns=wanted).to_pylist()
            for row, values in enumerate(rows):
                name = (values.get(columns.image) or {}).get("path")
                found.append((group, row, name, values.get(columns.label or "")))
    except (ArrowException, OSError, KeyError) as error:
        words = str(error).partition("\n")[0]
        asked = f"{columns.image}{f' and {columns.label}' if columns.label else ''}"
        raise UserError(f"source: {path}: needs columns {asked} as the others ({words})") from error
    return found


def _class(found: Any, columns: _Columns, where: str) -> str:
    """A class's name."""
    names = columns.names
    if isinstance(found, str) and found:
        return printable(found)
    if isinstance(found, int) and (names is None or 0 <= found < len(names)):
        return str(found) if names is None else names[found]
    raise UserError(
        f"{where}: {columns.label} is {found!r}, which is no class; give the labelled part "
        "alone, or set labels=none"
    )


def _part(name: str) -> str:
    """What may name the part of a split that a file holds: how its name begins, or its folder."""
    folder, _, file = name.rpartition("/")
    begin = file.partition(".")[0].partition("-")[0]
    outer = folder.rpartition("/")[2]
    return outer if is_part(outer) and not is_part(begin) else begin
