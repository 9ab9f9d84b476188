"""Lists of prompts: lines of text, or the column of a table, as the field's lists come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError

TABLES = (".csv", ".jsonl", ".parquet")
ENDINGS = (".txt", ".json", *TABLES)
COLUMN = "prompt"


def read_prompts(path: Path, where: str, column: str = COLUMN) -> list[str] | dict[str, str]:
    """The prompts of a file, in its order; by name those of a .json object of names and prompts.

    Args:
        path: a .txt file of one a line, a .json list, or a csv, jsonl or parquet table; or a folder
            with one such file.
        where: what gave it, for messages.
        column: of a table.

    Raises:
        UserError: for a file that is missing, empty, damaged or of another kind, and for an empty
            prompt, by its line, item or row (from 1).
    """
    return _read(path, where, column)[0]


def read_sized(
    path: Path, where: str, column: str = COLUMN
) -> tuple[list[str], list[tuple[int, int]] | None]:
    """The prompts of a file and the size of each one's picture, height and width in pixels.

    Sizes are the columns ``height`` and ``width`` of a table; None of a list without them.

    Raises:
        UserError: as of :func:`read_prompts`, and for sizes that are no whole numbers.
    """
    found, table = _read(path, where, column)
    texts = list(found.values()) if isinstance(found, dict) else found
    if table is None or not {"height", "width"} <= set(table.columns):
        return texts, None
    try:
        pairs = table[["height", "width"]].astype("int64").to_numpy().tolist()
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: its height and width are not all whole numbers") from error
    return texts, [(height, width) for height, width in pairs]


def _read(path: Path, where: str, column: str) -> tuple[list[str] | dict[str, str], Any]:
    """The prompts, and the table that they are a column of, if any."""
    path = list_of(path, where)
    if path.suffix not in ENDINGS:
        raise UserError(
            f"{where}: neither a .txt file of lines nor a .json list nor a table "
            f"({', '.join(TABLES)})"
        )
    table: Any = None
    try:
        if path.suffix in TABLES:
            table = read_table(path)
            found = _column(table, column, where)
        else:
            found = _text(path)
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file") from error
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: cannot be read ({words})") from error
    texts = list(found.values()) if isinstance(found, dict) else found
    kind = {".txt": "line", ".json": "item"}.get(path.suffix, "row")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: not a list of strings")
    if not any(texts):
        raise UserError(f"{where}: no prompts in it")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UserError(f"{where}: {kind} {number} is empty; every sample needs its prompt")
    return found, table


def list_of(path: Path, where: str) -> Path:
    """The file of prompts that a path means: itself, or the one in a folder.

    Raises:
        UserError: for a folder with none or several.
    """
    return _only_list(path, where) if path.is_dir() else path


def _only_list(folder: Path, where: str) -> Path:
    """The list in a folder, as in a dataset's on the hub."""
    found = sorted(p for p in folder.rglob("*") if p.suffix in (".txt", *TABLES))
    if len(found) != 1:
        words = f"{len(found)} files of prompts" if found else "no file of prompts"
        raise UserError(f"{where}: {words} in this folder; name the file")
    return found[0]


def _text(path: Path) -> Any:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        return json.loads(text)
    return text.removesuffix("\n").split("\n")


def _column(table: Any, column: str, where: str) -> list[Any]:
    if column not in table.columns:
        names = ", ".join(map(str, table.columns))
        raise UserError(f"{where}: has no column '{column}', but {names}")
    return list(table[column])


def read_table(path: Path) -> Any:
    """A table of prompts as pandas has it, its words as they are."""
    import pandas as pd

    if path.suffix == ".csv":
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    return pd.read_parquet(path)
