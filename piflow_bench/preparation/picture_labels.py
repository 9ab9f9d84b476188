"""Classes of a user's own pictures: files of labels, and numbers for names."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.files import natural, two_orders
from piflow_bench.evaluation.pictures.images import printable
from piflow_bench.evaluation.pictures.labels import as_classes
from piflow_bench.preparation.picture_arrays import read_idx

NAMES = ("file", "filename", "file_name", "image", "name", "path", "id")
LABELS = ("label", "labels", "class", "category", "y")
"""Heads of columns."""
FORMS = "lines of FILE,LABEL, or one label an image, as .csv, .tsv, .txt or .json"


def read_labels(path: Path, names: Sequence[str], by_place: bool) -> tuple[str, ...]:
    """The class of every picture by a file.

    Args:
        path: .csv or .tsv (columns of names and labels, or of labels alone; a head where there are
            more), .txt (``NAME LABEL`` or ``LABEL`` in a line), .json (a mapping, a list of labels
            or pairs, either also under ``labels``), .npy or idx (labels).
        names: of the pictures; in the file they may lack their folders, or their suffix too, where
            that leaves them different.
        by_place: whether pictures have a place of their own, to which labels without names belong.

    Raises:
        UserError: for another count of labels, and for names that are unknown, twice there with
            different labels, or lacking.
    """
    where = f"labels={path}"
    found = _entries(path, names, where)
    labels = [printable(label.strip()) for _, label in found]
    blank = next((i for i, label in enumerate(labels) if not label), None)
    if blank is not None:
        raise UserError(f"{where}: entry {blank + 1} has no label; {FORMS}")
    if any(name is not None for name, _ in found):
        return _by_name([str(name) for name, _ in found], labels, names, where)
    if len(labels) != len(names):
        raise UserError(
            f"{where}: {len(labels)} labels for {len(names)} images; one an image is needed, or "
            "lines of FILE,LABEL"
        )
    orders = None if by_place else two_orders(names)
    if orders:
        raise UserError(
            f"{where}: labels by place, but images are in one order by number ({orders[0]}) and in "
            f"another by letters ({orders[1]}); name the images: lines of FILE,LABEL"
        )
    return tuple(labels)


def _by_name(
    given: Sequence[str], labels: Sequence[str], names: Sequence[str], where: str
) -> tuple[str, ...]:
    places = _places(names)
    found: dict[int, str] = {}
    unknown = []
    for name, label in zip(given, labels, strict=True):
        place = places.get(_plain(name))
        if place is None:
            unknown.append(name)
        elif found.setdefault(place, label) != label:
            raise UserError(f"{where}: {name} is {found[place]} and {label}; keep one of them")
    if unknown:
        raise UserError(
            f"{where}: {len(unknown)} of {len(given)} names are no image's, first "
            f"{printable(unknown[0])}; images are called as {names[0]}"
        )
    lacking = [name for i, name in enumerate(names) if i not in found]
    if lacking:
        raise UserError(
            f"{where}: {len(lacking)} of {len(names)} images have no label, first {lacking[0]}; "
            "add them, or remove the images"
        )
    return tuple(found[i] for i in range(len(names)))


def _plain(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")


def _places(names: Sequence[str]) -> dict[str, int]:
    """The place of every picture by its path, and by any end of it that is its alone."""
    ends = [[n, PurePosixPath(n).name, PurePosixPath(n).stem] for n in names]
    counts = Counter(end for each in ends for end in set(each))
    found = {end: i for i, each in enumerate(ends) for end in each if counts[end] == 1}
    return found | {name: i for i, name in enumerate(names)}


# ------------------------------------------------------------------ files

Entries = list[tuple[str | None, str]]
"""Names, where there are names, and labels."""


def _entries(path: Path, names: Sequence[str], where: str) -> Entries:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        try:
            array = as_classes(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{where}: cannot be read ({error})") from error
        if array is None:
            raise UserError(f"{where}: whole numbers, names or one-hot rows are read")
        return [(None, str(label)) for label in array]
    if "idx1-ubyte" in path.name:
        return [(None, str(label)) for label in read_idx(path, "labels").reshape(-1)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read ({error}); {FORMS}") from error
    if suffix == ".json":
        return _of_json(text, where)
    if suffix in (".csv", ".tsv"):
        delimiter = "\t" if suffix == ".tsv" else ","
        return _of_rows(list(csv.reader(io.StringIO(text), delimiter=delimiter)), where)
    if suffix == ".txt":
        return _of_lines(text.splitlines(), names)
    raise UserError(f"{where}: is no file of labels; {FORMS}")


def _of_json(text: str, where: str) -> Entries:
    try:
        held = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: no JSON ({error})") from error
    if isinstance(held, dict) and isinstance(held.get("labels"), dict | list):
        held = held["labels"]
    rows: Iterable[Any] = held.items() if isinstance(held, dict) else held
    found: Entries = []
    for row in rows if isinstance(rows, Iterable) and not isinstance(rows, str) else [None]:
        name, label = row if isinstance(row, list | tuple) and len(row) == 2 else (None, row)
        if type(label) not in (str, int) or not isinstance(name, str | None):
            raise UserError(
                f"{where}: {str(row)[:60]} is no label; a mapping of names to labels, a list of "
                "labels, or one of pairs"
            )
        found.append((name, str(label)))
    return found


def _of_rows(rows: Sequence[list[str]], where: str) -> Entries:
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    label = next((head.index(word) for word in LABELS if word in head), None)
    name = next((head.index(word) for word in NAMES if word in head), None)
    widths = {len(row) for row in rows}
    if label is not None:  # The first row is a head.
        rows = rows[1:]
    elif widths <= {1, 2} and len(widths) < 2:
        name, label = (0, 1) if widths == {2} else (None, 0)
    else:
        raise UserError(f"{where}: which column holds labels? begin with a line: file,label")
    if len(widths) > 1:
        raise UserError(f"{where}: lines of {min(widths)} to {max(widths)} columns")
    return [(None if name is None else row[name], row[label]) for row in rows]


def _of_lines(lines: Sequence[str], names: Sequence[str]) -> Entries:
    """Lines of a name and a label where the first words are names, else of labels."""
    lines = [line.strip() for line in lines if line.strip()]
    places = _places(names)
    pairs = [line.rpartition(" ")[::2] if "\t" not in line else line.rpartition("\t")[::2]
             for line in lines]  # fmt: skip
    if any(_plain(name) in places for name, _ in pairs):
        return [(name, label) for name, label in pairs]
    return [(None, line) for line in lines]


# ------------------------------------------------------------------ numbers


def numbered(
    classes: Sequence[str], order: Sequence[str] | None = None, folders: bool = False
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Labels ``(n,)`` int64 from 0 on, the classes' names in their order, and cautions.

    The order is the one given; else numbers are in theirs, and names as people count (2 before
    10). ``folders`` says that the classes are folders, which others order by letters.
    """
    present = sorted(set(classes), key=natural)
    cautions = []
    if order is None:
        numbers = _whole(present)
        names = sorted(present, key=numbers.__getitem__) if numbers else present
        if numbers and names != [str(k) for k in range(len(names))]:
            cautions.append(
                f"labels are not 0 to {len(names) - 1}: {names[0]} to {names[-1]} became these, "
                "in order"
            )
        other = two_orders(names) if folders else None
        if other:
            cautions.append(
                f"class folders are in the order of their numbers; by letters, as torchvision's "
                f"ImageFolder has them, {other[1]} would be where {other[0]} is: for a teacher of "
                "that order rename them"
            )
    else:
        names = list(order)
    place = {name: k for k, name in enumerate(names)}
    labels = np.array([place[name] for name in classes], np.int64)
    counts = np.bincount(labels, minlength=len(names))
    few = [f"{names[k]} ({counts[k]})" for k in np.flatnonzero(counts < 2)]
    if few:
        shown = ", ".join(few[:6]) + (f" and {len(few) - 6} others" if len(few) > 6 else "")
        cautions.append(f"{len(few)} of {len(names)} classes have fewer than 2 images: {shown}")
    return labels, tuple(names), cautions


def _whole(names: Sequence[str]) -> dict[str, int] | None:
    """The numbers that all names are."""
    try:
        return {name: int(name) for name in names}
    except ValueError:
        return None
