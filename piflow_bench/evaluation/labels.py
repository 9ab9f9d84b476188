"""Files of labels: npy, json, csv and txt."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.files import is_image

FILES = ("file", "filename", "file_name", "name", "image", "path")
LABELS = ("label", "labels", "class", "class_id", "target")
"""What the columns of a csv file are called."""


def read_labels(source: Any) -> Any:
    """Labels one a sample, or a dictionary of them by the samples' names.

    Args:
        source: what is no path is returned as it is. A .npy file holds an array; a .json file a
            list or a dictionary; a .csv or .tsv file has a header with the columns ``file`` and
            ``label``, or one column; a .txt file one label a line, or a file's name and its label.

    Raises:
        UserError: naming the line.
    """
    if not isinstance(source, str | Path):
        return source
    path, suffix = Path(source), Path(source).suffix.lower()
    if not path.is_file():
        raise UserError(f"labels={source}: no such file")
    try:
        if suffix == ".json":
            return json.loads(path.read_text("utf-8"))
        if suffix in (".csv", ".tsv", ".txt"):
            return _of_rows(_rows(path, suffix), f"labels={source}")
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise UserError(
            f"labels={source}: not a readable npy, json, csv or txt file ({error})"
        ) from error
    if not isinstance(found, np.ndarray):
        raise UserError(f"labels={source}: an npz file; save its labels alone with numpy.save")
    return found


def _rows(path: Path, suffix: str) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, with their numbers, as stripped cells."""
    lines = path.read_text("utf-8-sig").splitlines()
    if suffix == ".txt":
        # A name comes first, or nothing: labels may be of several words.
        rows = [_named(line.strip()) for line in lines]
    else:
        rows = list(csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ",", strict=True))
    found = [(i, [cell.strip() for cell in row]) for i, row in enumerate(rows, 1)]
    return [(i, row) for i, row in found if any(row)]


def _named(line: str) -> list[str]:
    first, _, rest = line.partition(" ")
    return [first, rest] if rest and is_image(first) else [line]


def _of_rows(rows: list[tuple[int, list[str]]], where: str) -> list[str] | dict[str, str]:
    if not rows:
        raise UserError(f"{where}: no labels in it")
    number, cells = rows[0]
    width = len(cells)
    label, file = (
        next((i for i, cell in enumerate(cells) if cell.lower() in names), None)
        for names in (LABELS, FILES)
    )
    if label is not None and (file is not None or width == 1):
        rows = rows[1:]  # Those were the header.
    elif width == 1:
        label = 0
    elif width == 2 and is_image(cells[0]):
        file, label = 0, 1
    else:
        raise UserError(
            f"{where}: line {number}: a header with the columns file and label is needed, or one "
            "column of labels"
        )
    if not rows:
        raise UserError(f"{where}: no labels in it")
    for number, row in rows:
        if len(row) != width or not row[label] or (file is not None and not row[file]):
            raise UserError(
                f"{where}: line {number}: {width} columns are needed, none of them empty"
            )
    if file is None:
        return [row[label] for _, row in rows]
    found: dict[str, str] = {}
    for number, row in rows:
        if row[file] in found:
            raise UserError(f"{where}: line {number}: {row[file]} is there twice")
        found[row[file]] = row[label]
    return found
