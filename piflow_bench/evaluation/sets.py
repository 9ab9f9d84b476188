"""Which sets of samples are given: one, or several by name."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from piflow_bench.errors import UserError
from piflow_bench.evaluation.pictures.archives import ENDINGS
from piflow_bench.evaluation.pictures.files import natural

ARRAYS = (".npz", ".npy")


@dataclass(frozen=True)
class Sets:
    """Several sets by name, in the order given."""

    sources: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    """What a pattern matched and is no set."""


def written_list(text: str) -> list[str] | None:
    """The paths of ``[a,b,"c,d"]``; None for what is no list, or is itself a path."""
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")) or os.path.lexists(text):
        return None
    (row,) = csv.reader([inner[1:-1]], skipinitialspace=True)
    return [each.strip() for each in row]


def several(samples: Any) -> Sets | None:
    """The sets that ``samples`` names, or None where it is one.

    Several are a dictionary ``{name: set}``, a list of paths or of whole sets, or a pattern
    (``out/step-*``), also in a list. A list of images is one set.

    Raises:
        UserError: for a pattern that matches nothing, and for a set that is named twice.
    """
    if isinstance(samples, Sets):
        return samples
    if isinstance(samples, Mapping):
        if not samples:
            raise UserError("samples: an empty dictionary; {name: set} is needed")
        return Sets({str(name): source for name, source in samples.items()})
    if isinstance(samples, str | Path):
        if not _is_pattern(samples):
            return None
        given: Sequence[Any] = [samples]
    elif isinstance(samples, list | tuple) and _are_sets(samples):
        given = samples
    else:
        return None
    warnings: list[str] = []
    found: list[Any] = []
    for each in given:
        if isinstance(each, str | Path) and _is_pattern(each):
            found += _matched(str(each), warnings)
        else:
            found.append(each)
    return Sets(dict(zip(_names(found), found, strict=True)), warnings)


def _is_pattern(path: str | Path) -> bool:
    return has_magic(str(path)) and not os.path.lexists(path)


def _are_sets(items: Sequence[Any]) -> bool:
    """Whether the items are sets each, and not the images of one."""
    return bool(items) and (
        any(isinstance(i, str | Path) for i in items) or all(map(_is_set, items))
    )


def _is_set(item: Any) -> bool:
    if hasattr(item, "ndim"):
        return bool(item.ndim >= 4)
    # Pictures of Pillow's, and images with their labels, are items of one set.
    return (
        not hasattr(item, "convert")
        and not isinstance(item, tuple)
        and (hasattr(item, "__iter__") or hasattr(item, "__getitem__"))
    )


def _matched(pattern: str, warnings: list[str]) -> Iterator[str]:
    """What a pattern matches, in natural order; other files are told of."""
    matched = sorted(glob(pattern), key=natural)
    sets = [path for path in matched if _may_be_set(path)]
    if not sets:
        raise UserError(
            f"samples={pattern}: matches no folder, no archive and no .npz or .npy file"
        )
    others = len(matched) - len(sets)
    if others:
        example = next(path for path in matched if path not in sets)
        files = f"{others} other file{'s' if others > 1 else ''}"
        warnings.append(f"samples={pattern}: {files} left out, such as {example}")
    yield from sets


def _may_be_set(path: str) -> bool:
    return os.path.isdir(path) or path.lower().endswith((*ENDINGS, *ARRAYS))


def _names(sources: Sequence[Any]) -> list[str]:
    """A name for each: as much of its path as tells it apart, or its number."""
    paths = {
        i: Path(os.path.abspath(s)) for i, s in enumerate(sources) if isinstance(s, str | Path)
    }
    for shown in (set_name, lambda path: path.name):
        for depth in range(1, max((len(path.parts) for path in paths.values()), default=1) + 1):
            names = {
                i: "/".join([*path.parts[-depth:-1], shown(path)]) for i, path in paths.items()
            }
            if len(set(names.values())) == len(names):
                return [names.get(i, f"set {i + 1}") for i in range(len(sources))]
    twice = next(p for p in paths.values() if list(paths.values()).count(p) > 1)
    raise UserError(f"samples: {twice} is given twice")


def set_name(path: Path) -> str:
    """What a set is called: its folder, or its file without its ending."""
    if path.is_dir():
        return path.name
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)] or path.name
