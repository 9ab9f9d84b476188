"""Where trials look for a setting, as a method's ``Config`` declares it: ``setting(search=...)``.

Every place maps a uniform number of [0, 1) to a value, so that points of a Sobol sequence spread
over settings of any kind.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from piflow_bench.errors import UserError, nearest
from piflow_bench.settings import Bounds, bounds_of, search_of

DIGITS = 2
"""Significant digits of a value: a file of settings is read by people."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, evenly in their logarithm where ``log`` says so."""

    low: float
    high: float
    log: bool = False
    needs: str = ""
    """A setting of the same method without which this one says nothing: its name, or name=value."""

    def value(self, u: float) -> float:
        """The number at a share ``u`` of the way."""
        if not self.log:
            return _rounded(self.low + (self.high - self.low) * u)
        return _rounded(self.low * (self.high / self.low) ** u)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (", by its logarithm" if self.log else "")


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]
    needs: str = ""

    def value(self, u: float) -> Any:
        """The value whose share of [0, 1) holds ``u``."""
        return self.values[int(u * len(self.values))]

    def __str__(self) -> str:
        return ", ".join(str(value).lower() if isinstance(value, bool) else str(value)
                         for value in self.values)  # fmt: skip


Search = Range | Choice


def between(low: float, high: float, needs: str = "") -> Range:
    """Look evenly between two numbers."""
    return Range(low, high, needs=needs)


def log_between(low: float, high: float, needs: str = "") -> Range:
    """Look between two positive numbers, evenly in the logarithm."""
    return Range(low, high, log=True, needs=needs)


def among(*values: Any, needs: str = "") -> Choice:
    """Look at each of some values."""
    return Choice(values, needs)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def declared(settings: type) -> dict[str, Search]:
    """What trials look for among the settings of a dataclass."""
    found = {field.name: search_of(field) for field in dataclasses.fields(settings)}
    return {name: search for name, search in found.items() if search is not None}


def searched(
    settings: type, stated: Mapping[str, Any], ranges: Mapping[str, Sequence[float]]
) -> dict[str, Search]:
    """What trials look for where some settings are stated: those are as they are.

    Args:
        settings: the dataclass.
        stated: values of it, which decide what the others are for.
        ranges: ends of other ranges by setting, in the place of the declared ones.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    values = {**defaults, **stated}
    found = {}
    for name, search in declared(settings).items():
        if name in stated or not _matters(search.needs, values):
            continue
        if name in ranges and isinstance(search, Range):
            low, high = ranges[name]
            search = replace(search, low=float(low), high=float(high))
        found[name] = search
    return found


def _matters(needs: str, values: Mapping[str, Any]) -> bool:
    name, _, value = needs.partition("=")
    return not name or (values[name] == value if value else bool(values[name]))


def check_ranges(ranges: Mapping[str, Any], known: Mapping[str, Mapping[str, Search]]) -> None:
    """UserError for ranges that no variant's search space has, or that are none.

    Args:
        ranges: two numbers by setting.
        known: what is looked for, by variant.
    """
    every = {name: search for space in known.values() for name, search in space.items()}
    for name, ends in ranges.items():
        where = f"search.{name}={_written(ends)}"
        if name not in every:
            raise UserError(
                f"{where}: no variant's trials look for {name}; {nearest(name, sorted(every))}"
            )
        search = every[name]
        if isinstance(search, Choice):
            raise UserError(f"{where}: is one of {search}; there is no range to set")
        numbers = (
            isinstance(ends, list | tuple)
            and len(ends) == 2
            and all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
        )
        if not numbers or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
            raise UserError(f"{where}: must be two numbers, the lower first: [1e-4,1e-2]")
        if search.log and ends[0] <= 0:
            raise UserError(f"{where}: must be above 0: it is looked for by its logarithm")


def refused_end(search: Search, bounds: Bounds | None) -> str | None:
    """Why a place to look has values that the setting refuses; None if it has none."""
    values = search.values if isinstance(search, Choice) else (search.low, search.high)
    for value in values:
        if isinstance(value, str):
            reason = bounds.refuse_text(value) if bounds else None
        elif isinstance(value, bool) or value is None:
            reason = None
        else:
            reason = bounds.refuse_number(value) if bounds else None
        if reason:
            return f"{value}: {reason}"
    return None


def check_declared(settings: type) -> None:
    """ValueError if a dataclass's trials would look where its own bounds refuse.

    A range given for one experiment is checked when the trials' settings are built.
    """
    names = {field.name for field in dataclasses.fields(settings)}
    for field in dataclasses.fields(settings):
        search = search_of(field)
        if search is None:
            continue
        reason = refused_end(search, bounds_of(field))
        if reason:
            raise ValueError(f"{field.name}: its search looks at {reason}")
        if search.needs and search.needs.partition("=")[0] not in names:
            raise ValueError(f"{field.name}: its search needs {search.needs}, no setting of it")


def _written(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
