"""Reading what `evaluate` wrote: scores of one or several folders, as one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from piflow_reports.format import names as words
from piflow_reports.pictures import scores as scores_pictures
from piflow_reports.scores import differences as scores_differences

from piflow_bench.errors import UserError
from piflow_bench.evaluation.protocols import refuse_mixture
from piflow_bench.evaluation.tables import COLUMNS
from piflow_bench.evaluation.uncertainty import percent

FILE = "scores.parquet"
BEFORE = {"warnings": "", "taken": "", "confidence": 0.95}
"""Columns that older scores lack, and what held then."""


def read(folders: Sequence[Path]) -> pd.DataFrame:
    """All scores, with the set's name in column ``set``; refused if their protocols differ."""
    names = _names(folders)
    tables = []
    for name, folder in zip(names, folders, strict=True):
        try:
            found = pd.read_parquet(folder / FILE)
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"{folder}: {FILE} cannot be read ({line})") from error
        for later, value in BEFORE.items():
            if later not in found:
                found[later] = value
        missing = [column for column in COLUMNS if column not in found]
        if missing:
            raise UserError(
                f"{folder}: {FILE} has no column '{missing[0]}'; score the samples again"
            )
        if "set" in found:
            found["set"] = [_called(each, name, len(folders)) for each in found["set"]]
        else:
            found["set"] = name
        tables.append(found.assign(provenance=_provenance(folder)))
    scores = pd.concat(tables, ignore_index=True)
    several = any(len(by_count(each)) > 1 for each in tables)
    for part in by_count(scores) if several else [scores]:
        pairs = zip(part["protocol_hash"], part["rules"], strict=True)
        refuse_mixture({key: json.loads(rules) for key, rules in pairs}, words.joined(names))
    _refuse_confidences(scores)
    return scores


def _called(name: str, folder: str, folders: int) -> str:
    """What the page calls one of several sets of a folder."""
    return name if folders == 1 else f"{folder}/{name}"


def differences(folders: Sequence[Path]) -> pd.DataFrame:
    """Every two sets that were scored together, by the page's names."""
    found = []
    for name, folder in zip(_names(folders), folders, strict=True):
        apart = scores_differences.read(folder)
        found.append(
            apart.assign(
                **{
                    side: [_called(str(each), name, len(folders)) for each in apart[side]]
                    for side in ("set", "against")
                }
            )
        )
    return pd.concat(found, ignore_index=True)


def pictures(folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """Pictures of all sets by the page's names, and of what they were scored against."""
    found: dict[str, np.ndarray] = {}
    for name, folder in zip(_names(folders), folders, strict=True):
        own = scores_pictures.read(folder)
        sets = {each for each in own if each not in scores_pictures.BESIDE}
        for each, rows in own.items():
            called = _called(each, name, len(folders)) if each in sets else each
            found.setdefault(name if each == scores_pictures.ALONE else called, rows)
    return found


def by_count(scores: pd.DataFrame) -> list[pd.DataFrame]:
    """The scores of each number of samples that was asked for, ascending."""
    counts = [json.loads(rules)["samples"] for rules in scores["rules"]]
    return [part for _, part in scores.groupby(counts)]


def _refuse_confidences(scores: pd.DataFrame) -> None:
    """UserError where intervals of two confidences meet: overlaps of such say nothing."""
    firsts = scores[scores["ci_low"].notna()].drop_duplicates("confidence")
    if len(firsts) > 1:
        (a, b), (p, q) = firsts["set"][:2], map(percent, firsts["confidence"][:2])
        raise UserError(
            f"intervals of {p} ({a}) and of {q} ({b}) cannot be compared; score all sets with one "
            "confidence="
        )


def _provenance(folder: Path) -> str:
    """The JSON that the verb wrote beside its scores; scores of Python's own have none."""
    path = folder / "provenance.json"
    try:
        text = path.read_text("utf-8") if path.is_file() else "{}"
        if not isinstance(json.loads(text), dict):
            raise ValueError("no facts")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return text


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of folders, with as much of their paths as tells them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{folders[0]}: named twice")
