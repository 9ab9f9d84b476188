"""Tables as the schema states them: a writer that allows nothing else, a forgiving reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from piflow_bench.pipeline.results.schema import (
    BOOLEAN,
    FLOAT,
    INT,
    LIST,
    MAYBE_INT,
    TEXT,
    Column,
    Table,
)

STORED = {
    TEXT: pa.string(),
    LIST: pa.list_(pa.float64()),
    BOOLEAN: pa.bool_(),
    INT: pa.int64(),
    MAYBE_INT: pa.int64(),
    FLOAT: pa.float64(),
}
"""What a parquet file holds of each type."""


# ------------------------------------------------------------------ writing


def framed(rows: Iterable[Mapping[str, Any]], table: Table) -> pd.DataFrame:
    """Rows as a frame of exactly the table's columns, in its order and types.

    Raises:
        ValueError: for a row with other columns, or with a value that its column cannot hold.
    """
    rows = list(rows)
    names = table.names
    for row in rows:
        lacking = [name for name in names if name not in row]
        unknown = [] if table.more else [name for name in row if name not in names]
        if lacking or unknown:
            words = [f"lacks {name}" for name in lacking] + [f"has {name}" for name in unknown]
            raise ValueError(f"{table.file}: a row {', '.join(words)}, not as its schema says")
    more = [
        Column(name, FLOAT, table.more)
        for name in dict.fromkeys(name for row in rows for name in row)
        if name not in names
    ]
    columns = {
        column.name: _held(column, [row.get(column.name) for row in rows], table)
        for column in (*table.columns, *more)
    }
    return pd.DataFrame(columns)


def _held(column: Column, values: Sequence[Any], table: Table) -> Any:
    """The values as the column's type."""
    where = f"{table.file}: {column.name}"
    texts = {type(v) for v in values if isinstance(v, str) != (column.dtype == TEXT)}
    if texts:
        found = ", ".join(sorted(t.__name__ for t in texts))
        raise ValueError(f"{where} holds {column.dtype}, not {found}")
    other = set(values) - set(column.choices) if column.choices else set()
    if other:
        allowed = ", ".join(column.choices)
        raise ValueError(f"{where} is one of {allowed}, not {', '.join(sorted(other))}")
    try:
        if column.dtype == TEXT:
            return pd.Series([str(v) for v in values], dtype="str")
        if column.dtype == LIST:
            return pd.Series([[float(v) for v in each] for each in values], dtype=object)
        return pd.Series(values, dtype=column.dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} holds {column.dtype}: {error}") from error


def save(path: Path, frame: pd.DataFrame, table: Table) -> None:
    """Write a frame of :func:`framed`; a file without rows has its columns and types, too."""
    known = {column.name: column.dtype for column in table.columns}
    stored = [pa.field(name, STORED[known.get(name, FLOAT)]) for name in frame.columns]
    content = pa.Table.from_pandas(frame, pa.schema(stored), preserve_index=False)
    pq.write_table(content, path)


# ------------------------------------------------------------------ reading


def typed(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """A file's content, of whatever version, with all columns of the table, ready to compute with.

    Texts are ``str`` and numbers ``float``, booleans True, False or None, lists of ``float``. What
    the file lacks, and an empty text, is the column's default; what is no number is NaN. Columns
    that the table does not know stay as they are.

    Raises:
        ValueError: naming what is lacking, if that is required.
    """
    lacking = [name for name in table.required if name not in frame]
    if lacking:
        raise ValueError(f"{table.file} has no column {' and no column '.join(lacking)}")
    columns = {column.name: _read(column, frame) for column in table.columns}
    columns |= {str(name): frame[name] for name in frame if name not in columns}
    return pd.DataFrame(columns)


def _read(column: Column, frame: pd.DataFrame) -> pd.Series:
    """One column's values; its default where the frame has none."""
    default: Any = [] if column.dtype == LIST else column.default
    if column.name in frame:
        given = frame[column.name].astype(object)
    else:
        given = pd.Series([default] * len(frame), frame.index, dtype=object)
    if column.dtype == TEXT:
        return given.where(given.notna(), "").map(str).replace("", default or "")
    if column.dtype == LIST:
        lists = [[] if v is None or np.isscalar(v) else [float(e) for e in v] for v in given]
        return pd.Series(lists, frame.index, dtype=object)
    if column.dtype == BOOLEAN:
        known = [None if pd.isna(v) else bool(v) for v in given]
        return pd.Series(known, frame.index, dtype=object)
    return pd.to_numeric(given, errors="coerce").astype(float)
