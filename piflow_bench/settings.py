"""Settings: bounds declared beside the field, one validator, one reading of ``key=value``.

Every dataclass of settings (the experiment's, a method's ``Config``, a dataset's, the metrics')
declares its fields with ``setting``; every door (hydra, the verbs, Python) builds it with
``build_dataclass``, which refuses what is unknown, of another type or out of bounds.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piflow_bench.errors import UserError, nearest

if TYPE_CHECKING:
    from piflow_bench.search import Search

DEVICE: dict[str, Any] = {
    "pattern": r"cpu|cuda(:\d+)?",
    "words": "cpu, cuda or one of several GPUs, cuda:1",
}
"""Bounds of where something is computed."""
NPZ: dict[str, Any] = {"pattern": r".*\.npz", "words": "a file whose name ends in .npz"}
"""Bounds of a file to write."""
Location = typing.NewType("Location", str)
"""A file, a folder, an address on the hub (``hf://owner/name/path``) or in a Python package
(``package://NAME/path``): taken literally."""
_KEY, _ADDED, _SEARCH = "bounds", "added", "search"
_FEW = 6
"""Choices that are all named in an error; of more, the nearest."""


@dataclass(frozen=True)
class Bounds:
    """What a field holds. Of a list, what each of its elements does; None where the type has it."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: Collection[str] | Callable[[], Collection[str]] | None = None
    """Names; a function where they are known only when plugins are loaded."""
    pattern: str | None = None
    """A regular expression that the whole of a text matches."""
    words: str = ""
    """What the pattern asks for, or what is said beside the choices."""

    def range(self) -> str:
        """The numbers in words: ``at least 0 and below 1``; empty where all are."""
        parts = (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        return " and ".join(f"{word} {edge:g}" for word, edge in parts if edge is not None)

    def refuse_number(self, value: float) -> str | None:
        """Why a number is not allowed; None if it is."""
        if not math.isfinite(value):
            return f"must be a finite number{self.range() and ', '}{self.range()}"
        inside = (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )
        return None if inside else f"must be {self.range()}"

    def refuse_text(self, value: str) -> str | None:
        """Why a text is not allowed; None if it is."""
        if self.choices is not None:
            choices = self.choices() if callable(self.choices) else self.choices
            refusal = refuse_name(value, choices)
            return f"{refusal}; {self.words}" if refusal and self.words else refusal
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            return f"must be {self.words}"
        return None


def refuse_name(value: str, choices: Collection[str]) -> str | None:
    """Why a name is none of the choices; None if it is one."""
    if value in choices:
        return None
    if len(choices) > _FEW:
        return nearest(value, list(choices))
    *first, last = choices
    words = f"must be {', '.join(first)}{' or ' if first else ''}{last}"
    near = nearest(value, list(choices))
    return f"{words}; {near}" if near.startswith("did") else words


def setting(
    default: Any = dataclasses.MISSING,
    *,
    factory: Any = dataclasses.MISSING,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Collection[str] | Callable[[], Collection[str]] | None = None,
    pattern: str | None = None,
    words: str = "",
    added: bool = False,
    search: Search | None = None,
) -> Any:
    """A field of a settings dataclass, with what it may hold.

    Numbers are finite always. Without any bound every finite number, or every text, is allowed.

    Args:
        default: the value where none is given; or ``factory``, a function that makes it.
        least, above, most, below: edges of a number, inclusive (least, most) or not.
        choices: the names that a text may be.
        pattern: a regular expression that a text matches as a whole, and what it asks for in
            ``words``: "must be" stands before them; beside choices they follow.
        added: to settings that keys hold: at its default it is in none, so that what was made
            before there was such a setting keeps its name (see :func:`in_keys`).
        search: where trials look for the best value; None: they leave it as it is.
    """
    bounds = Bounds(least, above, most, below, choices, pattern, words)
    metadata = {_KEY: bounds, _ADDED: added, _SEARCH: search}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def bounds_of(field: dataclasses.Field[Any]) -> Bounds | None:
    """The declared bounds of a field; None if it declares none."""
    return field.metadata.get(_KEY)


def search_of(field: dataclasses.Field[Any]) -> Search | None:
    """Where trials look for a field's value; None if they do not."""
    return field.metadata.get(_SEARCH)


def in_keys(settings: Any, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings as plain values those that keys hold: none that was added and has its default."""
    fields = {f.name: f for f in dataclasses.fields(settings)}
    return {
        name: value
        for name, value in plain.items()
        if not (fields[name].metadata.get(_ADDED) and value == fields[name].default)
    }


def is_location(settings: type, name: str) -> bool:
    """Whether a field of a settings dataclass is a ``Location`` or a ``Path``."""
    hint = typing.get_type_hints(settings).get(name)
    return any(kind in (Location, Path) for kind in (hint, *typing.get_args(hint)))


# ---------------------------------------------------------------------------- validating


def build_dataclass(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """An instance of a settings dataclass, from plain values.

    Raises:
        UserError: naming the key below ``where``, its value, and the nearest valid key, the right
            type or the bounds.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    converted: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in fields:
            raise UserError(f"{name}: no such setting; {nearest(str(key), list(fields))}")
        bounds = bounds_of(fields[key]) or Bounds()
        converted[key] = _converted(value, hints[key], bounds, name)
    try:
        return cls(**converted)
    except ValueError as error:
        # The message may begin with the name of the settings: once is enough.
        text = str(error).removeprefix(f"{where.rpartition('.')[2]}.")
        sign = "." if re.match(r"[\w.]+[=:]", text) else ": "
        raise UserError(f"{where}{sign}{text}" if where else text) from error
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def _converted(value: Any, kind: Any, bounds: Bounds, name: str) -> Any:
    """The value as its type has it: numpy's numbers and tuples included."""
    kind = getattr(kind, "__supertype__", kind)  # Of a NewType.
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        if isinstance(value, Mapping):
            return build_dataclass(kind, value, name)
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
    if not _fits(value, kind):
        words = kind.__name__ if isinstance(kind, type) else str(kind)
        if bounds.choices is not None and not callable(bounds.choices) and words == "str":
            raise UserError(f"{name}={value}: {refuse_name(str(value), bounds.choices)}")
        hint = f"; lists are written [{value}]" if "list" in words else ""
        edges = bounds.range() and f", {bounds.range()}"
        raise UserError(f"{name}={value}: must be {words}{edges}{hint}")
    if value is None or isinstance(value, bool):
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kind = next(k for k in arguments if _fits(value, k))
        return _converted(value, kind, bounds, name)
    if origin in (list, tuple):
        made = [_converted(v, arguments[0], bounds, name) for v in value] if arguments else value
        return origin(made)
    if isinstance(value, Mapping):
        of = arguments[1] if arguments else Any
        return {str(k): _converted(v, of, bounds, f"{name}.{k}") for k, v in value.items()}
    refusal = None
    if kind in (int, float):
        refusal = bounds.refuse_number(value)
    elif kind is str:
        refusal = bounds.refuse_text(value)
    if refusal:
        raise UserError(f"{name}={value}: {refusal}")
    return kind(value) if kind in (int, float, Path) else value


def _fits(value: Any, kind: Any) -> bool:
    kind = getattr(kind, "__supertype__", kind)
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, k) for k in typing.get_args(kind))
    if kind is type(None):
        return value is None
    if origin in (list, tuple):
        return isinstance(value, list | tuple)
    if origin is dict:
        return isinstance(value, Mapping)
    if kind is Path:
        return isinstance(value, str | Path)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True


# ---------------------------------------------------------------------------- reading


def read_setting(argument: str) -> tuple[str, Any]:
    """Key and value of ``key=value``, the value by hydra's rules: ``no`` is a text, 1e-4 a number.

    Raises:
        UserError: if it is no such thing.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key = argument.partition("=")[0]
    try:
        override = OverridesParser.create().parse_override(argument)
        if override.key_or_group != key:
            raise UserError(f"{argument}: settings are given as key=value")
        if override.is_sweep_override():
            raise UserError(f"{argument}: one value is needed; lists are written [a,b]")
        return key, override.value()
    except HydraException as error:
        raise UserError(
            f"{argument}: not readable; lists are written [a,b], and values with special "
            "characters are quoted, as in \"title='a, b'\""
        ) from error


def nested(arguments: Sequence[str]) -> dict[str, Any]:
    """``a.b=value`` arguments as nested settings."""
    settings: dict[str, Any] = {}
    for argument in arguments:
        key, value = read_setting(argument)
        *parents, last = key.split(".")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"{argument}: '{parent}' is set to a value as well")
        place[last] = value
    return settings
