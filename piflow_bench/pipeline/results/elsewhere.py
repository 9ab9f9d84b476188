"""Numbers of a run's samples that other programs measured: shown beside its own, never ranked.

OneIG's, GenEval's and DPG's scorers need packages of their own. A csv of what they found is kept in
the run's folder, so that every page of the run has it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from piflow_bench.errors import UserError, nearest
from piflow_bench.files.atomic import write_text

FILE = "elsewhere.csv"
NEEDED = ("variant", "nfe", "metric", "value")


@dataclass(frozen=True)
class Elsewhere:
    """One number."""

    variant: str
    nfe: int
    metric: str
    value: float
    scorer: str = ""
    """The program that measured it, with its version."""
    note: str = ""

    @property
    def place(self) -> tuple[str, int, str]:
        """What it is the number of."""
        return self.variant, self.nfe, self.metric


def read(path: Path, where: str) -> list[Elsewhere]:
    """The numbers of a csv file.

    Args:
        path: its columns are ``variant, nfe, metric, value``, and perhaps ``scorer`` and ``note``.
        where: what gave it, for messages.

    Raises:
        UserError: for a file that is missing, no csv, empty or of other columns; for a number that
            is none, by its line; for two numbers of one thing.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read as csv ({error})") from error
    known = [f.name for f in fields(Elsewhere)]
    columns = list(rows[0]) if rows else []
    lacking = [name for name in NEEDED if name not in columns]
    if lacking:
        words = f"has no column '{lacking[0]}'" if rows else "has no rows"
        raise UserError(f"{where}: {words}; a line is variant,nfe,metric,value[,scorer,note]")
    other = [name for name in columns if name not in known]
    if other:
        raise UserError(f"{where}: column '{other[0]}': {nearest(str(other[0]), known)}")
    found: dict[tuple[str, int, str], Elsewhere] = {}
    for number, row in enumerate(rows, 2):
        one = _number({k: (v or "").strip() for k, v in row.items()}, f"{where}: line {number}")
        if one.place in found:
            raise UserError(
                f"{where}: line {number}: a second {one.metric} of {one.variant} at {one.nfe} NFE"
            )
        found[one.place] = one
    return list(found.values())


def _number(row: Mapping[str, str], where: str) -> Elsewhere:
    for name in ("variant", "metric"):
        if not row[name]:
            raise UserError(f"{where}: {name} is empty")
    try:
        nfe, value = int(row["nfe"]), float(row["value"])
    except ValueError as error:
        raise UserError(f"{where}: nfe and value must be numbers ({error})") from error
    if not math.isfinite(value):
        raise UserError(f"{where}: value={row['value']}: must be finite")
    rest = {name: row[name] for name in ("scorer", "note") if name in row}
    return Elsewhere(row["variant"], nfe, row["metric"], value, **rest)


def take(
    paths: Iterable[Path], folder: Path, sampled: Iterable[tuple[str, int]]
) -> list[Elsewhere]:
    """Keep the numbers of files in a run's folder, beside those of earlier calls.

    A number of the same variant, NFE and metric replaces the one that is there.

    Args:
        paths: as of :func:`read`.
        folder: of the run.
        sampled: variants of the run and the NFEs that each was sampled at.

    Raises:
        UserError: for what the run has not sampled; nothing is kept.
    """
    known = sorted(set(sampled))
    given: list[Elsewhere] = []
    for path in paths:
        numbers = read(path, f"elsewhere={path}")
        for one in numbers:
            _check(one, known, f"elsewhere={path}")
        given += numbers
    kept = {one.place: one for one in (*of_run(folder), *given)}
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([f.name for f in fields(Elsewhere)])
    table.writerows(astuple(one) for _, one in sorted(kept.items()))
    write_text(folder / FILE, out.getvalue())
    return list(kept.values())


def _check(one: Elsewhere, known: list[tuple[str, int]], where: str) -> None:
    """Refuse numbers of what a run has not sampled."""
    at = [nfe for name, nfe in known if name == one.variant]
    if not at:
        names = sorted({name for name, _ in known})
        raise UserError(
            f"{where}: {one.variant}: no variant of this run; {nearest(one.variant, names)}"
        )
    if one.nfe not in at:
        words = ", ".join(map(str, at))
        raise UserError(f"{where}: {one.variant} at {one.nfe} NFE: was sampled at {words}")


def of_run(folder: Path) -> list[Elsewhere]:
    """The numbers that a run's folder has."""
    path = folder / FILE
    return read(path, str(path)) if path.is_file() else []


def as_plain(numbers: Iterable[Elsewhere]) -> list[dict[str, object]]:
    """As the facts of a run hold them."""
    return [asdict(one) for one in numbers]
