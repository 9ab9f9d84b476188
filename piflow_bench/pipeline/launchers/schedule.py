"""Which stages of a plan are ready, and what became of the others."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from piflow_bench.errors import UserError
from piflow_bench.pipeline.stage import Stage
from piflow_bench.pipeline.store.store import Store


@dataclass(frozen=True)
class Failure:
    """Why a stage failed; ``traceback`` is for the log."""

    stage: Stage
    reason: str
    traceback: str = ""
    root: Stage | None = None
    """The ancestor that failed, for stages that were never tried."""


@dataclass
class Outcome:
    """What became of a plan's stages."""

    done: set[str] = field(default_factory=set)
    cached: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    seconds: float = 0.0


Notice = Callable[[str, Stage, str], None]
"""Told of every event: (start | done | cached | failed, stage, words)."""


def _ending(exit_code: int | None) -> str:
    return f"signal {-exit_code}" if exit_code and exit_code < 0 else f"exit {exit_code}"


class Schedule:
    """Which stages are ready, and what failed."""

    def __init__(
        self, stages: Iterable[Stage], store: Store, notice: Notice, retries: int = 0
    ) -> None:
        self.stages = list(stages)
        self.store, self.notice, self.retries = store, notice, retries
        self.outcome = Outcome()
        self.waiting: dict[str, Stage] = {}
        self.running: set[str] = set()
        self.deaths: dict[str, int] = {}
        for stage in self.stages:
            if store.has(stage):
                self.outcome.cached.add(stage.key)
                self.outcome.done.add(stage.key)
                notice("cached", stage, "")
            else:
                self.waiting[stage.key] = stage

    def ready(self) -> list[Stage]:
        """Stages whose inputs are there, the longest first."""
        found = [
            s for s in self.waiting.values() if all(p.key in self.outcome.done for p in s.parents())
        ]
        return sorted(found, key=lambda s: -s.weight)

    def start(self, stage: Stage) -> None:
        """A stage is being made."""
        del self.waiting[stage.key]
        self.running.add(stage.key)
        self.notice("start", stage, "")

    def finish(self, stage: Stage, result: tuple[str, str, str]) -> None:
        """A stage is made, or failed."""
        status, reason, trace = result
        self.running.discard(stage.key)
        if status == "done":
            self.outcome.done.add(stage.key)
            self.notice("done", stage, "")
            return
        if status == "environment":
            raise UserError(reason)
        self._fail(Failure(stage, reason, trace))

    def died(self, stage: Stage, exit_code: int | None, log: str = "") -> None:
        """A worker died while it made a stage, and left ``log``: try again, or give up."""
        self.running.discard(stage.key)
        self.deaths[stage.key] = self.deaths.get(stage.key, 0) + 1
        if self.deaths[stage.key] <= self.retries:
            self.waiting[stage.key] = stage
            return
        words = f"the worker process died {self.deaths[stage.key]} times ({_ending(exit_code)})"
        lines = log.splitlines()
        if exit_code == -signal.SIGKILL:
            words += "; out of memory?"
        elif lines:  # Of a crash the first line says what it was, of a traceback the last.
            words += f": {lines[0] if lines[0].startswith('Fatal') else lines[-1]}"
        self._fail(Failure(stage, words, log))

    def _fail(self, failure: Failure) -> None:
        self.outcome.failures[failure.stage.key] = failure
        self.notice("failed", failure.stage, failure.reason)
        root = failure.root or failure.stage
        reason = failure.reason if failure.root else f"needs {root.label}: {failure.reason}"
        for stage in list(self.waiting.values()):
            if stage.key in self.waiting and failure.stage.key in {p.key for p in stage.parents()}:
                del self.waiting[stage.key]
                self._fail(Failure(stage, reason, root=root))
