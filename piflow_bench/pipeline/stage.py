"""A stage: a unit of work with declared inputs and one output, named by what determines it.

What it does is a :class:`Task`: a frozen dataclass of every field that decides its output, of which
each kind has one, in a file of its own (``stages/``). What it reads are other stages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from piflow_bench.pipeline.runtime import Runtime

Report = Callable[[float, str], None]
"""Told of progress: the share that is done, and words."""
Inputs = Mapping[str, list[Path]]
"""Folders of the artifacts that are read, by the names of the inputs."""
Identity = Mapping[str, Any]
"""What decides a plugin's part in an output: its name, its settings, digests of what it loads."""

_LEFT_OUT = "left out of the key where it has its default"


def left_out(default: Any) -> Any:
    """A field that is in no key while it has its default: older artifacts keep their names."""
    return field(default=default, metadata={_LEFT_OUT: True})


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a stage does. A kind's fields are all that decides its output and nothing else.

    Never launcher, device, workers, batch sizes of evaluation, or paths: these are of the call, and
    come as ``runtime``.
    """

    kind: ClassVar[str]
    revision: ClassVar[int] = 1
    """Raise it when the same inputs give another output: older artifacts are made anew."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Names of its inputs, of which a stage may lack some."""
    resumable: ClassVar[bool] = False
    """Whether it goes on from what its work folder holds; others start afresh."""
    networks: ClassVar[bool] = False
    """Whether it runs networks, on one GPU where Slurm's jobs have any; a training has its own."""

    @property
    def content(self) -> dict[str, Any]:
        """The fields as plain values, as they are in the key."""
        given = {f: getattr(self, f.name) for f in fields(self)}
        return {
            f.name: value
            for f, value in given.items()
            if not (f.metadata.get(_LEFT_OUT) and value == f.default)
        }

    def run(self, inputs: Inputs, folder: Path, runtime: Runtime, report: Report) -> None:
        """Read ``inputs`` and write the output into ``folder``.

        Args:
            inputs: folders of artifacts, by name.
            folder: the stage's own; a resumable one finds there what it had written before.
            runtime: this machine and this call.
            report: told of progress.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Stage:
    """One node of the graph: a task, and the stages whose outputs it reads.

    ``about`` (variant, seed, ...) and ``label`` are for people.
    """

    task: Task
    inputs: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)
    label: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    """Rough relative duration, for scheduling and progress."""
    after: tuple[Stage, ...] = ()
    """Stages that must have been made before, though nothing is read from them: in no key."""

    def __post_init__(self) -> None:
        unknown = set(self.inputs) - set(self.task.reads)
        if unknown:
            raise TypeError(f"{self.kind} reads no {', '.join(sorted(unknown))}")

    @property
    def kind(self) -> str:
        """The kind's name."""
        return self.task.kind

    @cached_property
    def key(self) -> str:
        """sha256 over kind, its version, the task's fields and the keys of the inputs."""
        content = {
            "stage": self.kind,
            "version": self.task.revision,
            "config": self.task.content,
            "inputs": {name: [s.key for s in stages] for name, stages in self.inputs.items()},
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

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
