"""A stage: a unit of work with declared inputs and one output, named by what determines it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from piflow_bench.pipeline.kinds import KINDS


@dataclass(frozen=True, eq=False)
class Stage:
    """One node of the graph.

    ``config`` holds every field that determines the output and nothing else: never launcher,
    device, workers, batch sizes of evaluation, or paths. ``about`` (variant, seed, ...) and
    ``label`` are for people.
    """

    kind: str
    config: Mapping[str, Any]
    inputs: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)
    label: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    """Rough relative duration, for scheduling and progress."""
    after: tuple[Stage, ...] = ()
    """Stages that must have been made before, though nothing is read from them: in no key."""

    @cached_property
    def key(self) -> str:
        """sha256 over kind, its version, configuration and the keys of the inputs."""
        content = {
            "stage": self.kind,
            "version": KINDS[self.kind].version,
            "config": self.config,
            "inputs": {name: [s.key for s in stages] for name, stages in self.inputs.items()},
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def trains(self) -> bool:
        """Whether it is a training, of a student or of the teacher."""
        return KINDS[self.kind].training

    @property
    def name(self) -> str:
        """The artifact's folder name."""
        return f"{self.kind}-{self.key[:20]}"

    def parents(self) -> list[Stage]:
        """All input stages, and those that come before it."""
        return [*(s for stages in self.inputs.values() for s in stages), *self.after]


def closure(targets: Iterable[Stage]) -> list[Stage]:
    """Targets and everything they need, inputs first, each key once."""
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key in ordered:
            return
        for parent in stage.parents():
            visit(parent)
        ordered[stage.key] = stage

    for target in targets:
        visit(target)
    return list(ordered.values())
