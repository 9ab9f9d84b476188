"""What a method says of itself: its settings and its facts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from piflow_bench.conformance.plugin import check_settings
from piflow_bench.conformance.results import Failure, require
from piflow_bench.contracts.method import Facts
from piflow_bench.search import check_declared
from piflow_bench.tracks import NONE, TRACKS


def check_config(cls: Any) -> None:
    """A method's Config is a dataclass with defaults."""
    config = check_settings(cls)
    try:
        check_declared(config)
    except ValueError as error:
        raise Failure(f"Config.{error}") from error
    for name in cls.sampling:
        require(
            name in {field.name for field in fields(config)},
            f"sampling names '{name}', which Config has not: declare it in Sampling, with bounds",
        )


def check_facts(facts: Any) -> None:
    """Facts are of the right types and kinds."""
    require(isinstance(facts, Facts), "facts must be a Facts")
    choices = {
        "track": TRACKS,
        "jvp": ("none", "exact", "finite difference"),
        "guidance": ("baked", "at inference", "none"),
    }
    for key, valid in choices.items():
        value = getattr(facts, key)
        require(value in valid, f"facts.{key} is {value!r}: must be one of {', '.join(valid)}")
    kinds: dict[type, tuple[str, ...]] = {
        str: ("family", "paper", "citation", "fidelity", "target", "reward"),
        bool: ("trains", "needs_data", "needs_teacher", "elastic", "stochastic"),
        int: ("version",),
    }
    for kind, keys in kinds.items():
        for key in keys:
            value = getattr(facts, key)
            require(type(value) is kind, f"facts.{key} is {value!r}: must be {kind.__name__}")
    require(bool(facts.family), "facts.family is empty")
    for key in ("auxiliary", "trained_on"):
        value = getattr(facts, key)
        require(
            isinstance(value, tuple) and all(isinstance(n, str) for n in value),
            f"facts.{key} is {value!r}: must be a tuple of names",
        )
    require(
        not facts.citation or facts.citation.lstrip().startswith("@"),
        "facts.citation is no BibTeX entry: `cite` of the API writes one",
    )
    group = facts.group
    require(
        type(group) is int and group > 0, f"facts.group is {group!r}: must be a positive integer"
    )
    nfes = facts.nfes
    valid_nfes = isinstance(nfes, tuple) and nfes and all(type(n) is int and n > 0 for n in nfes)
    require(
        nfes is None or bool(valid_nfes),
        f"facts.nfes is {nfes!r}: must be None or a tuple of positive integers",
    )
    require(
        facts.trains == (facts.track != NONE),
        f"facts.trains is {facts.trains} on track '{facts.track}': only what is not trained is on "
        "track 'none'",
    )
